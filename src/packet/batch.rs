//! One buffer, many datagrams.

/// Datagrams of one size, one after another in one buffer; the last may be shorter.
///
/// This is the shape of the kernel's UDP segmentation offload: what one receive call returned, or what one send call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    segment_len: usize,
}

impl<'a> Batch<'a> {
    /// A batch of segments of `segment_len` bytes. A length of 0 means that all of `bytes` is one segment.
    pub fn new(bytes: &'a [u8], segment_len: usize) -> Self {
        Self { bytes, segment_len: if segment_len == 0 { bytes.len().max(1) } else { segment_len } }
    }

    /// A batch of one datagram.
    pub fn one(bytes: &'a [u8]) -> Self {
        Self::new(bytes, 0)
    }

    /// All segments' bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The size of every segment but the last, never 0.
    pub fn segment_len(&self) -> usize {
        self.segment_len
    }

    /// How many segments there are. An empty buffer is one empty datagram.
    pub fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.segment_len).max(1)
    }

    /// The segments in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (bytes, len) = (self.bytes, self.segment_len);
        (0..self.count()).map(move |i| &bytes[i * len..bytes.len().min((i + 1) * len)])
    }

    /// The segments from `first` up to, not including, `end`.
    pub(super) fn slice(&self, first: usize, end: usize) -> Self {
        let (from, to) = (first * self.segment_len, self.bytes.len().min(end * self.segment_len));
        Self { bytes: &self.bytes[from..to], segment_len: self.segment_len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_segment_is_shorter() {
        let bytes = [7; 10];
        let batch = Batch::new(&bytes, 4);
        assert_eq!((batch.count(), batch.iter().map(<[u8]>::len).collect::<Vec<_>>()), (3, vec![4, 4, 2]));
        assert_eq!(Batch::new(&bytes, 5).count(), 2);
    }

    #[test]
    fn an_empty_datagram_is_one_segment() {
        assert_eq!(Batch::one(&[]).iter().collect::<Vec<_>>(), vec![&[] as &[u8]]);
    }
}
