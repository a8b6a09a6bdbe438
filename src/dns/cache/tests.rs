use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::super::{Foreign, Transport};
use super::*;

fn now() -> Instant {
    #[allow(clippy::disallowed_methods)]
    Instant::now()
}

fn network(id: &str) -> NetworkId {
    id.parse().expect("an id")
}

fn answer(host: usize, ttl: u32) -> (ForeignKey, Arc<Found>) {
    answer_of(host, ttl, RData::A(A(Ipv4Addr::LOCALHOST)))
}

fn answer_of(host: usize, ttl: u32, data: RData) -> (ForeignKey, Arc<Found>) {
    let name: Name = format!("host{host}.example.").parse().expect("a name");
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name.clone(), RecordType::A));
    let query = message.to_vec().expect("encodes");
    let foreign = Foreign::decode(&query, Transport::Udp).expect("a question");
    message.metadata.message_type = MessageType::Response;
    message.add_answer(Record::from_rdata(name, ttl, data));
    let found = Found::decode(&message.to_vec().expect("encodes"), 1, &foreign).expect("an answer");
    (foreign.key(), Arc::new(found))
}

#[test]
fn an_answer_is_kept_as_long_as_it_says_and_for_its_network_only() {
    let (mut cache, now, (key, found)) = (Cache::new(1 << 20), now(), answer(1, 30));
    cache.insert(&network("pn-a"), &key, &found, now);
    let after = |seconds| now + Duration::from_secs(seconds);
    assert_eq!(cache.find(&network("pn-a"), &key, after(29)).expect("kept").1, 29);
    assert!(cache.find(&network("pn-b"), &key, now).is_none());
    assert!(cache.find(&network("pn-a"), &key, after(30)).is_none());
    cache.insert(&network("pn-a"), &answer(2, 0).0, &answer(2, 0).1, now);
    assert_eq!(cache.entries.len(), 1);
}

#[test]
fn it_never_grows_beyond_its_bound_and_what_ends_first_goes_first() {
    let (key, found) = answer(99, 1);
    let (mut cache, now) = (Cache::new(10 * weight_bytes(&key, &found)), now());
    for host in 0..100 {
        let (key, found) = answer(host, 1000 + host as u32);
        cache.insert(&network("pn-a"), &key, &found, now);
        cache.insert(&network("pn-a"), &key, &found, now);
        assert!(cache.weight_bytes <= cache.weight_bytes_max);
    }
    assert_eq!((cache.entries.len(), cache.ends.len()), (10, 10));
    assert!(cache.find(&network("pn-a"), &answer(99, 1).0, now).is_some());
    assert!(cache.find(&network("pn-a"), &answer(89, 1).0, now).is_none());
}

#[test]
fn an_answer_weighs_what_it_is_long_however_few_its_records_are() {
    let (mut cache, now) = (Cache::new(1 << 20), now());
    for host in 0..64 {
        // 60 KB: short texts, and long ones.
        let texts = if host % 2 == 0 { vec!["a".to_owned(); 30_000] } else { vec!["a".repeat(255); 235] };
        let (key, found) = answer_of(host, 1000 + host as u32, RData::TXT(TXT::new(texts)));
        assert!(found.len_bytes() >= 60_000);
        cache.insert(&network("pn-a"), &key, &found, now);
        let kept: usize = cache.entries.values().map(|entry| entry.found.len_bytes()).sum();
        assert!(kept <= 1 << 20, "{kept} bytes are kept");
    }
    assert!(cache.entries.len() > 10, "{} are kept", cache.entries.len());
}
