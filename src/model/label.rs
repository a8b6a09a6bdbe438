//! DNS labels: the form of every name and id that can stand in a private domain name.

use std::borrow::Borrow;
use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// One DNS label in lower case: 1 to 63 of `a-z`, `0-9` and `-`, with no `-` at either end (RFC 1123 §2.1).
///
/// Upper case is folded on the way in, so two labels are equal exactly when DNS says so.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<str>);

/// Why a text is no [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("a name cannot be empty")]
    Empty,
    #[error("a name has at most 63 characters, this one has {0}")]
    TooLong(usize),
    #[error("a name has only letters, digits and '-', not {0:?}")]
    Character(char),
    #[error("a name cannot begin or end with '-'")]
    Hyphen,
}

impl Label {
    /// The label's text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the label is digits only: such a label names a container's number, never a type.
    pub fn is_number(&self) -> bool {
        self.0.bytes().all(|b| b.is_ascii_digit())
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        if text.is_empty() {
            return Err(LabelError::Empty);
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Err(LabelError::Character(bad));
        }
        if text.len() > 63 {
            return Err(LabelError::TooLong(text.len()));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(LabelError::Hyphen);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl TryFrom<&str> for Label {
    type Error = LabelError;

    fn try_from(text: &str) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl Borrow<str> for Label {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl<C> minicbor::Encode<C> for Label {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Label {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        decode_text(d, Self::as_str)
    }
}

/// Reads a text that has one form on the wire: the one that it is kept in.
pub(super) fn decode_text<T: FromStr<Err: Error + Send + Sync + 'static>>(
    d: &mut minicbor::Decoder<'_>,
    as_kept: impl Fn(&T) -> &str,
) -> Result<T, minicbor::decode::Error> {
    let text = d.str()?;
    let value: T = text.parse().map_err(minicbor::decode::Error::custom)?;
    if as_kept(&value) != text {
        return Err(minicbor::decode::Error::message("a name on the wire is in lower case"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case_is_folded() {
        assert_eq!("Web-7".parse::<Label>().expect("a label").as_str(), "web-7");
    }

    #[test]
    fn what_is_no_label_is_refused_with_its_reason() {
        assert_eq!("".parse::<Label>(), Err(LabelError::Empty));
        assert_eq!("a.b".parse::<Label>(), Err(LabelError::Character('.')));
        assert_eq!("-a".parse::<Label>(), Err(LabelError::Hyphen));
        assert_eq!("a-".parse::<Label>(), Err(LabelError::Hyphen));
        assert_eq!("a".repeat(64).parse::<Label>(), Err(LabelError::TooLong(64)));
        assert_eq!("ä".parse::<Label>(), Err(LabelError::Character('ä')));
    }

    #[test]
    fn a_label_on_the_wire_must_be_in_lower_case() {
        let upper = minicbor::to_vec("WEB").expect("encodes");
        assert!(minicbor::decode::<Label>(&upper).is_err());
    }
}
