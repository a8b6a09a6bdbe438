//! YAML as a tree of texts, each with its place, bounded in size and depth.
//!
//! Every scalar stays the text that was written: what `3000:80`, `off` or `010` mean is said by the key they stand
//! under, so no rule of YAML 1.1 or 1.2 can turn a port into a number of seconds. Aliases are expanded and count in full;
//! tags, further documents and keys that are no scalars are refused.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::problem::{Mark, Problem, shown};

/// The longest file, in bytes.
pub const FILE_LEN_MAX: usize = 64 * 1024;
/// A service file is six levels deep; more is a mistake or an attack.
const DEPTH_MAX: usize = 16;
/// The sum of all nodes' costs once aliases are expanded: four times what a file without aliases can come to.
const COST_MAX: usize = 4 * FILE_LEN_MAX;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<'t> {
    pub at: Mark,
    pub value: Value<'t>,
    /// One for each node in it, and one for each byte of their texts.
    cost: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'t> {
    Scalar {
        text: Cow<'t, str>,
        style: Style,
    },
    List(Vec<Node<'t>>),
    /// In the order of the file. A key is a scalar; it may be there twice.
    Map(Vec<(Node<'t>, Node<'t>)>),
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// Between quotes of either kind.
    Quoted,
    /// On lines of its own, behind `|` or `>`.
    Block,
}

impl Node<'_> {
    /// Whether nothing is there: no value, `~` or `null`.
    pub fn is_null(&self) -> bool {
        let words = ["", "~", "null", "Null", "NULL"];
        matches!(&self.value, Value::Scalar { text, style: Style::Plain } if words.contains(&text.as_ref()))
    }

    /// What it is, for a message.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Reads one document.
///
/// # Errors
/// The first thing for which `text` is no document of this form.
pub fn read(text: &str) -> Result<Node<'_>, Problem> {
    let mut reader = Reader { events: Parser::new_from_str(text), anchors: BTreeMap::new(), cost: 0 };
    loop {
        match reader.next()? {
            (Event::DocumentStart(_), _) => break,
            (Event::StreamEnd, _) => {
                let why = "a service file has `services:` or `databases:`, or both";
                let hint = "services: { web: { ports: [\"3000:80\"] } }";
                return Err(Problem::new(Mark::START, "the file is empty", why, hint));
            }
            _ => {}
        }
    }
    let root = match reader.next()? {
        (Event::DocumentEnd | Event::StreamEnd, span) => Node::scalar(mark(&span), Cow::Borrowed(""), Style::Plain),
        (event, span) => reader.node(event, &span, 1)?,
    };
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(root),
            (Event::DocumentStart(_), span) => {
                let why = "a service file is one document; behind `---` another begins";
                let hint = "one file, and one `peerctl apply`, for each application";
                return Err(Problem::new(mark(&span), "a second document", why, hint));
            }
            _ => {}
        }
    }
}

struct Reader<'t> {
    events: Parser<'t, StrInput<'t>>,
    /// What aliases stand for. An anchor is here once its node is whole, so none contains itself.
    anchors: BTreeMap<usize, Node<'t>>,
    cost: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(no_yaml(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node<'t>, Problem> {
        let at = mark(span);
        if depth > DEPTH_MAX {
            return Err(too_deep(at));
        }
        if let Event::Alias(anchor) = event {
            return self.alias(anchor, at);
        }
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.as_ref())
            }
            _ => (0, None),
        };
        if let Some(tag) = tag {
            let what = format!("the tag {}", shown(&tag.to_string()));
            let why = "a key says what its value is; a tag cannot change that";
            return Err(Problem::new(at, what, why, "leave it out; put a text that begins with ! in quotes"));
        }
        let node = match event {
            Event::Scalar(text, style, ..) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                Node::scalar(at, text, style)
            }
            Event::SequenceStart(..) => self.list(at, depth)?,
            Event::MappingStart(..) => self.map(at, depth)?,
            _ => return Err(Problem::new(at, "a value is missing", "the file ends here", "is it cut off?")),
        };
        // What stands inside has paid for itself.
        self.pay(at, 1 + node.text_len())?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, at: Mark, depth: usize) -> Result<Node<'t>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => break,
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
        let cost = 1 + items.iter().map(|item| item.cost).sum::<usize>();
        Ok(Node { at, value: Value::List(items), cost })
    }

    fn map(&mut self, at: Mark, depth: usize) -> Result<Node<'t>, Problem> {
        let mut entries = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => break,
                (event, span) => self.node(event, &span, depth + 1)?,
            };
            if !matches!(key.value, Value::Scalar { .. }) {
                let why = "a key is a word; in braces and brackets YAML takes more than one";
                let what = format!("{} as a key", key.kind());
                return Err(Problem::new(key.at, what, why, "put text that contains { } [ ] in quotes"));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, &span, depth + 1)?;
            entries.push((key, value));
        }
        let cost = 1 + entries.iter().map(|(key, value)| key.cost + value.cost).sum::<usize>();
        Ok(Node { at, value: Value::Map(entries), cost })
    }

    /// A copy of what the anchor stands before, paid for before it is made.
    fn alias(&mut self, anchor: usize, at: Mark) -> Result<Node<'t>, Problem> {
        let Some(cost) = self.anchors.get(&anchor).map(|node| node.cost) else {
            let why = "an alias repeats what is whole, and this one stands inside of it";
            return Err(Problem::new(at, "an alias of what it stands in", why, "write the value out"));
        };
        self.pay(at, cost)?;
        Ok(Node { at, ..self.anchors[&anchor].clone() })
    }

    fn pay(&mut self, at: Mark, cost: usize) -> Result<(), Problem> {
        self.cost += cost;
        if self.cost <= COST_MAX {
            return Ok(());
        }
        let why = format!("with its aliases written out a file comes to at most {COST_MAX} bytes");
        Err(Problem::new(at, "the file's aliases repeat too much", why, "write out what differs, leave out the rest"))
    }
}

impl<'t> Node<'t> {
    fn scalar(at: Mark, text: Cow<'t, str>, style: Style) -> Self {
        Self { at, cost: 1 + text.len(), value: Value::Scalar { text, style } }
    }

    fn text_len(&self) -> usize {
        if let Value::Scalar { text, .. } = &self.value { text.len() } else { 0 }
    }
}

fn mark(span: &Span) -> Mark {
    Mark { line: span.start.line().max(1), column: span.start.col() + 1 }
}

fn too_deep(at: Mark) -> Problem {
    let why = format!("a service file is at most {DEPTH_MAX} levels deep");
    Problem::new(at, "the file is nested too deeply", why, "look at the brackets and the indentation")
}

/// What the library says, with what a person can do in the cases that happen.
fn no_yaml(error: &ScanError) -> Problem {
    let at = Mark { line: error.marker().line().max(1), column: error.marker().col() + 1 };
    let said = error.info();
    if said.contains("unknown anchor") {
        let why = "a text that begins with * is an alias in YAML, and nothing has that name";
        return Problem::new(at, "an alias of nothing", why, "put it in quotes, as \"*.example.com\"");
    }
    // The library has a bound of its own for brackets, and looks ahead.
    if said.contains("recursion limit") {
        return too_deep(at);
    }
    let hint = if said.contains("tab") {
        "indent with spaces"
    } else if said.contains("could not find expected ':'") || said.contains("simple key") {
        "is a `:` missing, or the space behind it?"
    } else {
        "look at the indentation, and for a bracket or a quote that nothing closes"
    };
    Problem::new(at, "this is not YAML", said, hint)
}
