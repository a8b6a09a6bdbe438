//! The invite as text: `peerd1-` and a base32 text that survives being read aloud, typed and line-wrapped.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use minicbor::{Decode, Encode};
use rand_core::{CryptoRng, RngCore};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::model::{ClusterId, NetworkId, NodeId};

const PREFIX: &str = "peerd1-";
/// No token is longer: a longer text is something else.
pub const TEXT_LEN_MAX: usize = 4096;
const ENDPOINT_COUNT_MAX: usize = 16;
const CHECKSUM_LEN: usize = 4;

/// What an invite shall allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteSpec {
    /// The networks that who joins is granted.
    pub networks: Vec<NetworkId>,
    pub ttl: Duration,
    /// How many nodes may join with it, at least 1.
    pub uses: u32,
    /// Whether who joins becomes a signer.
    pub signer: bool,
}

/// An invite, as it travels from person to person: whoever has it can join.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Token {
    #[n(0)]
    pub cluster: ClusterId,
    /// The one signer that redeems it.
    #[n(1)]
    pub signer: NodeId,
    #[n(2)]
    pub endpoints: Vec<SocketAddr>,
    #[n(3)]
    secret: TokenSecret,
}

/// A text that is no token. None of these repeats the text: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a token begins with \"peerd1-\"")]
    Prefix,
    #[error("the token is too long")]
    TooLong,
    #[error("the token has a character that tokens have not")]
    Character,
    #[error("the token is cut or mistyped: its checksum does not match")]
    Checksum,
    #[error("the token has an unknown content")]
    Content,
}

/// 128 random bits that only the token carries.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
struct TokenSecret(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]);

impl Drop for TokenSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What the signer keeps of an invite: it proves the token right, and the token cannot be made from it.
#[derive(Clone, Encode, Decode)]
#[cbor(transparent)]
pub(super) struct RedeemKey(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl Drop for RedeemKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Names an invite in the join exchange and tells nothing of its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub(super) struct InviteId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

/// Shows that a joiner has the token: HMAC-SHA-256(K, TLS exporter | joiner's key | cluster).
#[derive(Clone, Copy, Encode, Decode)]
#[cbor(transparent)]
pub(super) struct Proof(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl Token {
    pub(super) fn random(
        cluster: ClusterId,
        signer: NodeId,
        endpoints: &[SocketAddr],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Self {
        let mut secret = TokenSecret([0; 16]);
        rng.fill_bytes(&mut secret.0);
        Self { cluster, signer, endpoints: endpoints.iter().copied().take(ENDPOINT_COUNT_MAX).collect(), secret }
    }

    /// The token as text.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        minicbor::encode(self, &mut *bytes).expect("a Vec takes every byte");
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_LEN]);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len() * 2));
        text.push_str(PREFIX);
        BASE32_NOPAD.encode_append(&bytes, &mut text);
        text.make_ascii_lowercase();
        text
    }

    pub(super) fn invite(&self) -> InviteId {
        let mut id = InviteId([0; 16]);
        self.expand(b"invite", &mut id.0);
        id
    }

    pub(super) fn redeem_key(&self) -> RedeemKey {
        let mut key = RedeemKey([0; 32]);
        self.expand(b"redeem", &mut key.0);
        key
    }

    fn expand(&self, info: &[u8], to: &mut [u8]) {
        Hkdf::<Sha256>::new(None, &self.secret.0).expand(info, to).expect("HKDF-SHA256 yields up to 8160 bytes");
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Reads a token. Case, white space and line breaks do not matter.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(TokenError::TooLong);
        }
        let text: Zeroizing<String> = Zeroizing::new(text.split_ascii_whitespace().collect());
        let (prefix, body) = text.split_at_checked(PREFIX.len()).ok_or(TokenError::Prefix)?;
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(TokenError::Prefix);
        }
        let upper = Zeroizing::new(body.to_ascii_uppercase());
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(upper.as_bytes()).map_err(|error| match error.kind {
            data_encoding::DecodeKind::Symbol => TokenError::Character,
            _ => TokenError::Checksum,
        })?);
        let (content, checksum) =
            bytes.len().checked_sub(CHECKSUM_LEN).map(|at| bytes.split_at(at)).ok_or(TokenError::Checksum)?;
        if &blake3::hash(content).as_bytes()[..CHECKSUM_LEN] != checksum {
            return Err(TokenError::Checksum);
        }
        let token: Self = minicbor::decode(content).map_err(|_| TokenError::Content)?;
        if token.endpoints.len() > ENDPOINT_COUNT_MAX {
            return Err(TokenError::Content);
        }
        Ok(token)
    }
}

/// Names the signer, never the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token of {} at {:?}", self.signer, self.endpoints)
    }
}

impl RedeemKey {
    fn mac(&self, exporter: &[u8; 32], joiner: NodeId, cluster: ClusterId) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(exporter);
        mac.update(&joiner.0);
        mac.update(&cluster.0);
        mac
    }

    pub(super) fn prove(&self, exporter: &[u8; 32], joiner: NodeId, cluster: ClusterId) -> Proof {
        Proof(self.mac(exporter, joiner, cluster).finalize().into_bytes().into())
    }

    /// Whether `proof` was made with this key, for this connection and this joiner. Takes the same time for every answer.
    pub(super) fn accepts(&self, proof: &Proof, exporter: &[u8; 32], joiner: NodeId, cluster: ClusterId) -> bool {
        self.mac(exporter, joiner, cluster).verify_slice(&proof.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_core::SeedableRng;

    fn token(seed: u64) -> Token {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
        let endpoints =
            ["192.0.2.1:51790".parse().expect("an address"), "[2001:db8::1]:9".parse().expect("an address")];
        Token::random(ClusterId([1; 32]), NodeId([2; 32]), &endpoints, &mut rng)
    }

    #[test]
    fn a_token_reads_what_it_prints_also_upper_case_and_wrapped() {
        let token = token(1);
        let text = token.to_text();
        assert!(text.starts_with("peerd1-"));
        assert!(text.parse() == Ok(token.clone()));
        let wrapped: String =
            text.to_uppercase().as_bytes().chunks(20).flat_map(|c| [c, b"\r\n"].concat()).map(char::from).collect();
        assert!(wrapped.parse() == Ok(token));
    }

    #[test]
    fn a_token_with_any_character_changed_or_missing_is_refused() {
        let text = token(1).to_text();
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(changed.parse::<Token>().is_err(), "{at}");
            assert!(text[..at].parse::<Token>().is_err(), "{at}");
        }
    }

    #[test]
    fn debug_and_errors_show_no_secret() {
        let token = token(1);
        let secret = data_encoding::HEXLOWER.encode(&token.secret.0);
        assert!(!format!("{token:?}").contains(&secret));
        let half = token.to_text()[..60].to_owned();
        assert!(!half.parse::<Token>().expect_err("cut").to_string().contains(&half[20..40]));
    }

    #[test]
    fn a_proof_holds_for_one_connection_one_joiner_and_one_token() {
        let (key, cluster, joiner) = (token(1).redeem_key(), ClusterId([1; 32]), NodeId([3; 32]));
        let proof = key.prove(&[7; 32], joiner, cluster);
        assert!(key.accepts(&proof, &[7; 32], joiner, cluster));
        assert!(!key.accepts(&proof, &[8; 32], joiner, cluster));
        assert!(!key.accepts(&proof, &[7; 32], NodeId([4; 32]), cluster));
        assert!(!key.accepts(&proof, &[7; 32], joiner, ClusterId([2; 32])));
        assert!(!token(2).redeem_key().accepts(&proof, &[7; 32], joiner, cluster));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,300}", tail in "[a-z2-7]{0,300}") {
            prop_assert!(text.parse::<Token>().is_err());
            let prefixed = ["peerd1-", &tail].concat();
            prop_assert!(prefixed.parse::<Token>().is_err());
        }
    }
}
