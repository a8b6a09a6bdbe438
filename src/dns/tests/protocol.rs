//! The protocol: flags, sizes, and what a server does not do.

use hickory_proto::rr::DNSClass;

use super::*;
use crate::model::CONTAINERS;

#[test]
fn the_question_comes_back_in_its_own_letters() {
    let name = "Web.AP-shop.pN-a.pRiVaTe-NeTwOrK.InTeRnAl.";
    let answer = ask(&question(name, RecordType::A));
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(answer.queries[0].name().to_ascii(), name);
    assert!(answer.answers.iter().all(|record| record.name.to_ascii() == name));
}

#[test]
fn flags_are_those_of_an_answer() {
    let mut query = question(SHOP, RecordType::A);
    query.metadata.checking_disabled = true;
    query.metadata.authentic_data = true;
    let answer = ask(&query);
    assert_eq!((answer.id, answer.message_type), (0x1234, MessageType::Response));
    assert!(answer.authoritative && answer.recursion_desired && answer.recursion_available);
    assert!(!answer.authentic_data && !answer.checking_disabled && !answer.truncation);
    query.metadata.recursion_desired = false;
    assert!(!ask(&query).recursion_desired);
}

/// A network whose every address is a web container of one application with ids as long as the documents' own.
fn full() -> (Membership, String) {
    let (app, id) = ("ap-a71da13f-7c70-4c00-a644-eee8558d8053", "pn-a");
    let mut a = network(id, 1, "demo");
    for (number, address) in (1..).zip(CONTAINERS.iter()) {
        a.insert_container(container(app, "web", number, address, State::Ready));
    }
    (Membership::new(ClusterId([0; 32]), [], [a]), format!("web.{app}.{id}.{PRIVATE_ZONE}."))
}

#[test]
fn a_full_networks_1022_addresses_arrive_whole_over_tcp() {
    let (membership, name) = full();
    let (_, out) = ask_bytes(&membership, &question(&name, RecordType::A).to_vec().expect("encodes"), Transport::Tcp);
    let answer = Message::from_vec(&out).expect("an answer");
    assert!(!answer.truncation);
    assert!(sorted(addresses(&answer)).into_iter().eq(CONTAINERS.iter()));
}

#[test]
fn over_udp_what_does_not_fit_is_cut_at_a_whole_record() {
    let (membership, name) = full();
    let plain = question(&name, RecordType::A);
    for (query, limit) in [
        (plain.clone(), 512),
        (with_edns(plain.clone(), 0), 512),
        (with_edns(plain.clone(), 800), 800),
        (with_edns(plain.clone(), 1232), 1232),
        (with_edns(plain, 4096), 1232),
    ] {
        let (_, out) = ask_bytes(&membership, &query.to_vec().expect("encodes"), Transport::Udp);
        assert!(out.len() <= limit && out.len() + 16 > limit, "{} of {limit}", out.len());
        let answer = Message::from_vec(&out).expect("whole records");
        assert!(answer.truncation);
        let question_len = 12 + name.len() + 1 + 4;
        let opt_len = if query.edns.is_some() { 11 } else { 0 };
        assert_eq!(
            out.len(),
            question_len + 16 * answer.answers.len() + opt_len,
            "something stands behind the last record"
        );
        assert_eq!(answer.edns.as_ref().map(Edns::max_payload), query.edns.map(|_| 1232));
    }
}

#[test]
fn an_answer_that_fits_is_not_cut() {
    let answer = ask(&question(SHOP, RecordType::A));
    assert!(!answer.truncation && answer.edns.is_none());
}

#[test]
fn an_answer_is_cut_exactly_where_one_more_record_does_not_fit() {
    // A name of one label in the question, as short as an application's name can be.
    let query = |edns| {
        let message = question("a.demo.private-network.internal.", RecordType::A);
        if edns { with_edns(message, 1232) } else { message }
    };
    let question_len = 12 + "a.demo.private-network.internal.".len() + 1 + 4;
    let mut network = network("pn-a", 1, "demo");
    for n in 1..=100u8 {
        network.insert_container(container("a", "web", n.into(), ip(0, n), State::Ready));
        let membership = Membership::new(ClusterId([0; 32]), [], [network.clone()]);
        for (edns, limit) in [(false, 512), (true, 1232 - 11)] {
            let bytes = query(edns).to_vec().expect("encodes");
            let (_, out) = ask_bytes(&membership, &bytes, Transport::Udp);
            let answer = Message::from_vec(&out).expect("an answer");
            let fit = (limit - question_len) / 16;
            let due = (usize::from(n).min(fit), usize::from(n) > fit);
            assert_eq!((answer.answers.len(), answer.truncation), due, "{n} records, EDNS {edns}");
        }
    }
}

#[test]
fn what_we_do_not_do_is_refused_with_its_code() {
    let code = |message: &Message| ask(message).response_code;
    assert_eq!(code(&question(SHOP, RecordType::AXFR)), ResponseCode::Refused);
    let mut ixfr = question(&format!("{PRIVATE_ZONE}."), RecordType::IXFR);
    let soa = ask(&question(&format!("{PRIVATE_ZONE}."), RecordType::SOA)).answers.remove(0);
    ixfr.add_authority(soa);
    assert_eq!(code(&ixfr), ResponseCode::Refused);
    for opcode in [OpCode::Update, OpCode::Notify, OpCode::Status, OpCode::Unknown(9)] {
        let mut message = question(SHOP, RecordType::SOA);
        message.metadata.op_code = opcode;
        let answer = ask(&message);
        assert_eq!((answer.response_code, answer.op_code), (ResponseCode::NotImp, opcode));
    }
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut future = with_edns(question(SHOP, RecordType::A), 1232);
    future.edns.as_mut().expect("EDNS").set_version(1);
    let answer = ask(&future);
    assert_eq!((u16::from(answer.response_code), answer.answers.len()), (u16::from(ResponseCode::BADVERS), 0));
}

#[test]
fn any_gets_one_small_record() {
    let answer = ask(&question(SHOP, RecordType::ANY));
    let [record] = &answer.answers[..] else { panic!("one record, not {answer}") };
    assert_eq!(record.record_type(), RecordType::HINFO);
}

#[test]
fn a_message_that_is_no_single_question_is_a_format_error() {
    let code = |bytes: &[u8]| {
        let (outcome, out) = ask_bytes(&membership(), bytes, Transport::Udp);
        assert_eq!(outcome, Outcome::Answered);
        assert_eq!(out[..2], bytes[..2], "the id comes back");
        Message::from_vec(&out).expect("an answer").response_code
    };
    let good = question(SHOP, RecordType::A).to_vec().expect("encodes");
    assert_eq!(code(&good), ResponseCode::NoError);
    for (count, what) in [(0, "no question"), (2, "two questions, one there"), (0xffff, "more than can be")] {
        let mut bytes = good.clone();
        bytes[4..6].copy_from_slice(&u16::to_be_bytes(count));
        assert_eq!(code(&bytes), ResponseCode::FormErr, "{what}");
    }
    let mut twice = question(SHOP, RecordType::A);
    twice.add_query(twice.queries[0].clone());
    assert_eq!(code(&twice.to_vec().expect("encodes")), ResponseCode::FormErr);
    for cut in 12..good.len() {
        assert_eq!(code(&good[..cut]), ResponseCode::FormErr, "cut at {cut}");
    }
    assert_eq!(code(&[&good[..], b"\0"].concat()), ResponseCode::FormErr, "bytes behind the end");
    for (offset, what) in [(6, "an answer that is not there"), (8, "an authority"), (10, "an additional")] {
        let mut bytes = good.clone();
        bytes[offset + 1] = 1;
        assert_eq!(code(&bytes), ResponseCode::FormErr, "{what}");
    }
    let mut two_opt = with_edns(question(SHOP, RecordType::A), 1232).to_vec().expect("encodes");
    let opt = two_opt[two_opt.len() - 11..].to_vec();
    two_opt.extend(opt);
    two_opt[11] = 2;
    assert_eq!(code(&two_opt), ResponseCode::FormErr);
    let mut circle = good[..12].to_vec();
    circle.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(code(&circle), ResponseCode::FormErr, "a name that is a pointer to itself");
    let mut header = good[..12].to_vec();
    header.extend([0xc0, 4, 0, 1, 0, 1]);
    assert_eq!(code(&header), ResponseCode::FormErr, "a name that is a pointer into the header");
}

#[test]
fn responses_and_shards_get_no_answer() {
    let mut response = question(SHOP, RecordType::A).to_vec().expect("encodes");
    response[2] |= 0x80;
    let (outcome, out) = ask_bytes(&membership(), &response, Transport::Udp);
    assert_eq!((outcome, out.len()), (Outcome::Dropped(DropReason::Response), 0));
    for len in 0..12 {
        let (outcome, out) = ask_bytes(&membership(), &response[..len], Transport::Udp);
        assert_eq!((outcome, out.len()), (Outcome::Dropped(DropReason::NoHeader), 0));
    }
}

#[test]
fn a_caller_whose_network_is_gone_gets_a_failure() {
    let nothing = Membership::default();
    let query = question(SHOP, RecordType::A).to_vec().expect("encodes");
    let (_, out) = ask_bytes(&nothing, &query, Transport::Udp);
    assert_eq!(Message::from_vec(&out).expect("an answer").response_code, ResponseCode::ServFail);
}
