//! What holds for any bytes.

use proptest::prelude::*;

use super::*;

/// Questions around the names that exist, in any letters.
fn near_names() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("web"),
        Just("worker"),
        Just("1"),
        Just("02"),
        Just("ap-shop"),
        Just("AP-Jobs"),
        Just("pn-a"),
        Just("DEMO"),
        Just("pn-b"),
        Just("svc"),
        Just("_x"),
        Just("_tcp"),
        Just("_http"),
        Just("_services"),
        Just("_apps"),
        Just("ap-jobs"),
        Just("mysql-default"),
        Just("+1"),
        Just("a b"),
        Just("ä"),
    ];
    let zone = prop_oneof![
        Just("private-network.internal."),
        Just("Private-Network.INTERNAL."),
        Just("0.240.10.in-addr.arpa."),
        Just("internal."),
        Just("example."),
        Just("."),
    ];
    (prop::collection::vec(part, 0..6), zone).prop_map(|(parts, zone)| {
        let below: String = parts.iter().map(|part| format!("{part}.")).collect();
        if zone == "." && !below.is_empty() { below } else { below + zone }
    })
}

/// What holds for every answer to any bytes.
fn check_answer(query: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    let (outcome, out) = ask_bytes(&membership(), query, transport);
    if let Outcome::Dropped(_) = outcome {
        prop_assert!(out.is_empty());
        return Ok(());
    }
    prop_assert_eq!(&out[..2], &query[..2]);
    prop_assert!(out[2] & 0x80 != 0, "an answer is a response");
    prop_assert_eq!(out[2] & 0x79, query[2] & 0x79, "opcode and RD come back");
    let limit = if transport == Transport::Udp { 1232 } else { 65_535 };
    prop_assert!(out.len() <= limit);
    let answer = Message::from_vec(&out).expect("an answer can be read");
    if answer.edns.is_none() && transport == Transport::Udp {
        prop_assert!(out.len() <= 512);
    }
    if let [question] = &answer.queries[..] {
        let len = question.name().iter().map(|label| label.len() + 1).sum::<usize>() + 1 + 4;
        prop_assert_eq!(&out[12..12 + len], &query[12..12 + len], "the question comes back");
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_get_a_bounded_answer_or_none(
        bytes in prop::collection::vec(any::<u8>(), 0..600), tcp in any::<bool>(),
    ) {
        check_answer(&bytes, if tcp { Transport::Tcp } else { Transport::Udp })?;
    }

    #[test]
    fn a_mutated_query_gets_a_bounded_answer_or_none(
        name in near_names(),
        asked in any::<u16>(),
        payload in prop::option::of(any::<u16>()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let plain = question(&name, RecordType::from(asked));
        let message = payload.map_or(plain.clone(), |payload| with_edns(plain, payload));
        let mut bytes = message.to_vec().expect("encodes");
        for (index, value) in flips {
            let at = index.index(bytes.len());
            bytes[at] ^= value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        check_answer(&bytes, Transport::Udp)?;
    }

    #[test]
    fn a_whole_query_gets_its_question_back(name in near_names(), asked in 1u16..260) {
        let bytes = question(&name, RecordType::from(asked)).to_vec().expect("encodes");
        let (outcome, out) = ask_bytes(&membership(), &bytes, Transport::Udp);
        prop_assert!(!matches!(outcome, Outcome::Dropped(_)));
        prop_assert_eq!(&out[12..bytes.len()], &bytes[12..]);
    }
}
