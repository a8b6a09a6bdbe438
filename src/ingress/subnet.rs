//! Addresses that begin alike, as an operator writes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `192.0.2.0/24`, `2001:db8::/32`, or one address. As nginx reads it, and without bits behind the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Subnet {
    first: IpAddr,
    prefix_len: u8,
}

/// A text that is no [`Subnet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error("it is neither an address nor ADDRESS/LENGTH")]
    Form,
    #[error("a prefix of {0} has at most {1} bits")]
    Long(IpAddr, u8),
    #[error("{0} has bits behind a prefix of {1}")]
    Behind(IpAddr, u8),
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let (first, len) = text.split_once('/').map_or((text, None), |(first, len)| (first, Some(len)));
        let first: IpAddr = first.parse().map_err(|_| SubnetError::Form)?;
        let (bits, bits_max) = match first {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let prefix_len = len.map_or(Ok(bits_max), str::parse).map_err(|_| SubnetError::Form)?;
        if prefix_len > bits_max {
            return Err(SubnetError::Long(first, bits_max));
        }
        if bits.checked_shl(u32::from(prefix_len)).unwrap_or(0) != 0 {
            return Err(SubnetError::Behind(first, prefix_len));
        }
        Ok(Self { first, prefix_len })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_len)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_prefix_is_one_and_nothing_else_is() {
        for (text, shown) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(text.parse::<Subnet>().map(|subnet| subnet.to_string()).as_deref(), Ok(shown), "{text}");
        }
        for text in ["", "/", "all", "192.0.2.0/", "192.0.2/24", "192.0.2.1 ; include x", "10.0.0.0/8; ", "unix:"] {
            assert_eq!(text.parse::<Subnet>(), Err(SubnetError::Form), "{text}");
        }
        let address: IpAddr = [192, 0, 2, 7].into();
        assert_eq!("192.0.2.7/24".parse::<Subnet>(), Err(SubnetError::Behind(address, 24)));
        assert_eq!("192.0.2.7/33".parse::<Subnet>(), Err(SubnetError::Long(address, 32)));
    }
}
