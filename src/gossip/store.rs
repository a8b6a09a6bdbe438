//! The files a node keeps, as bytes: their names, their frame, and what is refused.
//!
//! A file is `"peerd" | kind | version 1 | payload | BLAKE3 of all before`. A file that is torn, cut or has a flipped bit is
//! refused with its name; what that means is for its owner to say: another node's log is dropped and fetched again,
//! the identity and what this node itself signed are an error.
//!
//! The shell writes a file to a temporary name with mode 0600, syncs it, renames it, and syncs the folder.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

/// A file to be written, or removed if `content` is `None`.
#[derive(Clone, PartialEq, Eq)]
pub struct Write {
    /// Of `a-z`, `0-9`, `-` and `.` only, at most 160 characters, not beginning with `.`.
    pub name: String,
    pub content: Option<Zeroizing<Vec<u8>>>,
}

/// What the state folder held at the start: file names and whole contents.
#[derive(Clone, Default)]
pub struct Stored {
    files: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// Why stored state cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{0} is damaged: its checksum does not match")]
    Damaged(String),
    #[error("{0} is missing although there is other state beside it")]
    Missing(String),
    #[error("{0} was written by a newer version ({1})")]
    Version(String, u8),
    #[error("{0} holds something else than it should")]
    Content(String),
    #[error("{0} belongs to another node or cluster")]
    Foreign(String),
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    NodeKey = 1,
    RootKey = 2,
    Boot = 3,
    Cluster = 4,
    OwnLog = 5,
    ForeignLog = 6,
    Secrets = 7,
    Invites = 8,
    /// The shell's own: the containers that this node hosts.
    Attachments = 9,
    Resting = 10,
    /// The shell's own: what the operator has settled of the ingress.
    Ingress = 11,
}

const MAGIC: &[u8; 5] = b"peerd";
const VERSION: u8 = 1;
const HEADER_LEN: usize = MAGIC.len() + 2;
const TRAILER_LEN: usize = 32;

impl Stored {
    /// Nothing: the state of a node that never started.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds a file that the state folder holds.
    pub fn insert(&mut self, name: String, content: Vec<u8>) {
        self.files.insert(name, Zeroizing::new(content));
    }

    /// Does to this value what the shell does to the folder.
    pub fn apply(&mut self, write: &Write) {
        match &write.content {
            Some(content) => drop(self.files.insert(write.name.clone(), content.clone())),
            None => drop(self.files.remove(&write.name)),
        }
    }

    /// Whether the folder holds no file at all.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The payload of a file, or `None` if there is no such file.
    ///
    /// # Errors
    /// The file is damaged, newer, or of another kind.
    pub fn open(&self, name: &str, kind: FileKind) -> Result<Option<&[u8]>, StoreError> {
        self.files.get(name).map(|content| unframe(name, kind, content)).transpose()
    }

    /// The whole content of a file.
    pub fn content(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|content| &content[..])
    }

    /// The names that begin with `prefix`, in order.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.files.range(prefix.to_owned()..).map(|(name, _)| name.as_str()).take_while(move |n| n.starts_with(prefix))
    }
}

impl Write {
    /// A file of this kind with this payload.
    pub fn new(name: impl Into<String>, kind: FileKind, payload: &[u8]) -> Self {
        let mut content = Zeroizing::new(Vec::with_capacity(HEADER_LEN + payload.len() + TRAILER_LEN));
        content.extend_from_slice(MAGIC);
        content.extend_from_slice(&[kind as u8, VERSION]);
        content.extend_from_slice(payload);
        let trailer = blake3::hash(&content);
        content.extend_from_slice(trailer.as_bytes());
        Self { name: name.into(), content: Some(content) }
    }

    /// The end of a file.
    pub fn remove(name: impl Into<String>) -> Self {
        Self { name: name.into(), content: None }
    }
}

fn unframe<'a>(name: &str, kind: FileKind, content: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let damaged = || StoreError::Damaged(name.to_owned());
    let body_len = content.len().checked_sub(TRAILER_LEN).filter(|len| *len >= HEADER_LEN).ok_or_else(damaged)?;
    let (body, trailer) = content.split_at(body_len);
    if blake3::hash(body).as_bytes() != trailer || &body[..MAGIC.len()] != MAGIC {
        return Err(damaged());
    }
    if body[MAGIC.len() + 1] != VERSION {
        return Err(StoreError::Version(name.to_owned(), body[MAGIC.len() + 1]));
    }
    if body[MAGIC.len()] != kind as u8 {
        return Err(StoreError::Content(name.to_owned()));
    }
    Ok(&body[HEADER_LEN..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(write: &Write) -> Stored {
        let mut stored = Stored::empty();
        stored.apply(write);
        stored
    }

    #[test]
    fn a_file_cut_anywhere_or_with_any_bit_flipped_is_refused() {
        let whole = Write::new("boot", FileKind::Boot, b"payload");
        let bytes = whole.content.clone().expect("content");
        assert_eq!(stored(&whole).open("boot", FileKind::Boot), Ok(Some(&b"payload"[..])));
        for len in 0..bytes.len() {
            let mut cut = Stored::empty();
            cut.insert("boot".into(), bytes[..len].to_vec());
            assert_eq!(cut.open("boot", FileKind::Boot), Err(StoreError::Damaged("boot".into())));
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut state = Stored::empty();
            state.insert("boot".into(), flipped);
            assert_eq!(state.open("boot", FileKind::Boot), Err(StoreError::Damaged("boot".into())));
        }
    }

    #[test]
    fn a_file_in_the_place_of_another_is_refused() {
        let boot = stored(&Write::new("node.key", FileKind::Boot, b"x"));
        assert_eq!(boot.open("node.key", FileKind::NodeKey), Err(StoreError::Content("node.key".into())));
        assert_eq!(boot.open("boot", FileKind::Boot), Ok(None));
    }
}
