//! The zones that the resolver answers for by itself, and their SOA and NS records.

use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{Name, RData, Record};

use super::reply::{Rdata, TTL};

/// The zone of all private names.
pub const PRIVATE_ZONE: &str = "private-network.internal";

/// How long a stub may believe that there is no such name or data: short, so that a new container is found soon.
const NEGATIVE_TTL: u32 = 5;

/// A zone that the resolver answers for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone {
    Private,
    /// The addresses 10.240.K.0 to 10.240.K.255, K below 4.
    Reverse(u8),
    /// The last labels of the question's name, so many: a service's short name, a namespace, or a suffix.
    Last(u8),
}

impl Zone {
    /// The zone's name; `asked` is a name within it.
    fn name(self, asked: &Name) -> Name {
        let text = match self {
            Self::Private => format!("{PRIVATE_ZONE}."),
            Self::Reverse(third) => format!("{third}.240.10.in-addr.arpa."),
            Self::Last(count) => return asked.trim_to(count.into()).to_lowercase(),
        };
        Name::from_ascii(text).expect("the zones' names are names")
    }

    /// The zone's SOA for an answer without records, living as long as that answer may be kept (RFC 2308 §3).
    pub(super) fn negative_soa(self, asked: &Name, edition: u32) -> Record {
        let soa = self.soa(asked, edition).data;
        Record::from_rdata(self.name(asked), NEGATIVE_TTL.min(TTL), soa)
    }

    /// Formed like those of other zones that a resolver answers for by itself (RFC 6303 §3).
    pub(super) fn soa(self, asked: &Name, edition: u32) -> Rdata {
        let nobody = Name::from_ascii("nobody.invalid.").expect("nobody.invalid is a name");
        // It changes with what the network's names say, and with nothing of another network. Nobody transfers the zone,
        // so it need not count upwards.
        let serial = edition.wrapping_add(1);
        RData::SOA(SOA::new(self.name(asked), nobody, serial, 3600, 1200, 604_800, NEGATIVE_TTL)).into()
    }

    pub(super) fn ns(self, asked: &Name) -> Rdata {
        RData::NS(NS(self.name(asked))).into()
    }
}
