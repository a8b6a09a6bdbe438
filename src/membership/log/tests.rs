use proptest::prelude::*;
use rand_core::SeedableRng;

use super::*;
use crate::membership::body::{Body, Grant, NetworkDef, NodeCert, Revocation, Signer, Succession, Ungrant};
use crate::membership::testing::{Fixture, key, node};
use crate::membership::{Logs, OwnLog, Pen, Record, Role, Shard, Verdicts, Verifier};
use crate::model::{Boot, ClusterId, NodeId, Rev, Seq, Vni};

fn rng(seed: u64) -> rand_chacha::ChaCha20Rng {
    rand_chacha::ChaCha20Rng::seed_from_u64(seed)
}

fn pen(boot: u64) -> Pen {
    Pen::new(key(1), ClusterId([9; 32]), Boot(boot))
}

fn shard() -> Shard {
    Shard::Network("pn-a".parse().expect("an id"))
}

fn grant(to: u8) -> Body {
    Body::Grant(Grant { node: node(to), role: Role::Host })
}

/// The deltas of a log that says and unsays what `edits` ask for, a head after each.
fn history(edits: &[(u8, bool)]) -> Vec<Delta> {
    let (mut pen, mut log, mut rng) = (pen(1), OwnLog::new(shard()), rng(1));
    let deltas = edits.iter().filter_map(|(to, say)| {
        if *say {
            log.put(&mut pen, &grant(*to), Rev(1));
        } else {
            log.remove(Kind::GRANT, &node(*to).0);
        }
        log.seal(&mut pen, &mut rng)
    });
    deltas.collect()
}

/// Applies deltas, pulling the whole from `source` where an increment does not fit, as a node does.
fn catch_up(deltas: &[&Delta], source: &Logs) -> Logs {
    let mut logs = Logs::default();
    for delta in deltas {
        if logs.apply(delta) == Err(ApplyError::Mismatch) {
            let since = logs.log(&shard(), node(1)).map(Log::stamp);
            let pulled = source.log(&shard(), node(1)).expect("the source has it").delta_since(since, usize::MAX);
            logs.apply(&pulled).expect("a pull fits");
        }
    }
    logs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn deltas_in_any_order_and_number_lead_to_the_newest_head(
        edits in prop::collection::vec((2u8..10, any::<bool>()), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let deltas = history(&edits);
        prop_assume!(!deltas.is_empty());
        let mut source = Logs::default();
        for delta in &deltas {
            source.apply(delta).expect("in order they fit");
        }
        let mut shuffled: Vec<&Delta> = order.iter().map(|at| at.get(&deltas)).collect();
        shuffled.push(deltas.last().expect("not empty"));
        let (once, again) = (catch_up(&shuffled, &source), {
            shuffled.reverse();
            catch_up(&shuffled, &source)
        });
        let newest = source.digest(&shard());
        prop_assert_eq!(once.digest(&shard()), newest);
        prop_assert_eq!(again.digest(&shard()), newest);
        prop_assert_eq!(once.equivocations().len(), 0);
        // Everything once more changes nothing.
        let mut idempotent = once;
        for delta in &deltas {
            prop_assert_eq!(idempotent.apply(delta), Ok(Applied::Known));
        }
        prop_assert_eq!(idempotent.digest(&shard()), newest);
    }

    #[test]
    fn a_log_in_parts_is_the_log(edits in prop::collection::vec((2u8..60, Just(true)), 1..60), len_max in 1usize..2000) {
        let deltas = history(&edits);
        let mut source = Logs::default();
        for delta in &deltas {
            source.apply(delta).expect("in order they fit");
        }
        let log = source.log(&shard(), node(1)).expect("it is there");
        let (mut staged, mut since) = (Vec::new(), None);
        let mut delta = loop {
            let mut part = log.delta_since(since, len_max);
            since = part.added.last().map(Verified::stamp);
            staged.append(&mut part.added);
            if part.rest != Rest::More {
                break part;
            }
        };
        delta.added = staged;
        let mut target = Logs::default();
        target.apply(&delta).expect("the parts add up");
        prop_assert_eq!(target.digest(&shard()), source.digest(&shard()));
    }

    #[test]
    fn no_bytes_make_the_reader_of_deltas_panic(noise in prop::collection::vec(any::<u8>(), 0..600), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut verifier = Verifier::new(ClusterId([9; 32]), Verdicts::default());
        let _ = minicbor::decode_with::<_, Delta>(&noise, &mut verifier);
        let delta = history(&[(2, true), (3, true), (2, false)]).pop().expect("a delta");
        let good = {
            let mut bytes = Vec::new();
            minicbor::encode_with(&delta, &mut bytes, &mut verifier).expect("encodes");
            bytes
        };
        prop_assert_eq!(minicbor::decode_with::<_, Delta>(&good, &mut verifier).ok(), Some(delta.clone()));
        let mut bad = good.clone();
        for (at, value) in &flips {
            *at.get_mut(&mut bad) ^= value;
        }
        if let Ok(read) = minicbor::decode_with::<_, Delta>(&bad, &mut verifier) {
            // What still reads is signed by its origin all the same, so it holds no other head.
            prop_assert_eq!(read.head, delta.head);
        }
    }
}

#[test]
fn a_delta_that_does_not_add_up_to_its_head_changes_nothing() {
    let deltas = history(&[(2, true), (3, true), (4, true)]);
    let mut logs = Logs::default();
    logs.apply(&deltas[0]).expect("the first fits");
    let before = logs.digest(&shard());
    assert_eq!(logs.apply(&deltas[2]), Err(ApplyError::Mismatch));
    assert_eq!(logs.digest(&shard()), before);
}

#[test]
fn a_record_of_another_origin_shard_or_later_than_its_head_is_refused() {
    let delta = history(&[(2, true)]).remove(0);
    let mut elsewhere = OwnLog::new(Shard::Network("pn-b".parse().expect("an id")));
    let mut mallory = Pen::new(key(5), ClusterId([9; 32]), Boot(1));
    let wrong_shard = elsewhere.put(&mut pen(1), &grant(2), Rev(1));
    let wrong_origin = OwnLog::new(shard()).put(&mut mallory, &grant(2), Rev(1));
    let late = OwnLog::new(shard()).put(&mut pen(7), &grant(2), Rev(1));
    for (record, error) in
        [(wrong_shard, ApplyError::WrongLog), (wrong_origin, ApplyError::WrongLog), (late, ApplyError::Order)]
    {
        let forged = Delta { added: vec![record], ..delta.clone() };
        assert_eq!(Logs::default().apply(&forged), Err(error));
    }
}

#[test]
fn of_two_heads_with_one_stamp_the_lower_hash_holds_in_any_order_and_both_are_kept() {
    let fork = |seed| {
        let (mut pen, mut log) = (pen(1), OwnLog::new(shard()));
        log.put(&mut pen, &grant(2), Rev(1));
        log.seal(&mut pen, &mut rng(seed)).expect("it changed")
    };
    let (one, other) = (fork(1), fork(2));
    assert_eq!(one.head.stamp(), other.head.stamp());
    let lower = one.head.hash().min(other.head.hash());
    for order in [[&one, &other], [&other, &one]] {
        let mut logs = Logs::default();
        for delta in order {
            logs.apply(delta).expect("both are sound");
        }
        assert_eq!(logs.log(&shard(), node(1)).map(|log| log.signed_head().hash()), Some(lower));
        assert_eq!(logs.equivocations().len(), 1);
    }
}

#[test]
fn two_records_with_one_stamp_are_kept_as_proof() {
    let (mut pen_a, mut pen_b, mut rng) = (pen(1), pen(1), rng(1));
    let (mut a, mut b) = (OwnLog::new(shard()), OwnLog::new(shard()));
    a.put(&mut pen_a, &grant(2), Rev(1));
    b.put(&mut pen_b, &Body::Grant(Grant { node: node(2), role: Role::Owner }), Rev(1));
    let first = a.seal(&mut pen_a, &mut rng).expect("changed");
    b.put(&mut pen_b, &grant(3), Rev(1));
    let second = b.seal(&mut pen_b, &mut rng).expect("changed");
    let mut logs = Logs::default();
    logs.apply(&first).expect("sound");
    logs.apply(&second).expect("sound");
    assert!(matches!(logs.equivocations().next(), Some((_, Equivocation::Records(_)))));
}

#[test]
fn a_revocation_never_leaves_a_log() {
    let (mut pen, mut rng) = (pen(1), rng(1));
    let mut log = OwnLog::new(Shard::Cluster);
    log.put(&mut pen, &Body::Revocation(Revocation { node: node(4) }), Rev(1));
    let revoked = log.seal(&mut pen, &mut rng).expect("changed");
    log.remove(Kind::REVOCATION, &node(4).0);
    let taken_back = log.seal(&mut pen, &mut rng).expect("changed");
    let mut logs = Logs::default();
    logs.apply(&revoked).expect("sound");
    assert_eq!(logs.apply(&taken_back), Err(ApplyError::Revocation));
}

#[test]
fn a_revocation_is_not_overwritten_by_what_nobody_reads() {
    let (mut pen, mut rng) = (pen(1), rng(1));
    let mut log = OwnLog::new(Shard::Cluster);
    log.put(&mut pen, &Body::Revocation(Revocation { node: node(4) }), Rev(1));
    let revoked = log.seal(&mut pen, &mut rng).expect("changed");
    log.put_raw(&mut pen, Kind::REVOCATION, node(4).0.to_vec(), Rev(2), b"no body".to_vec());
    let garbled = log.seal(&mut pen, &mut rng).expect("changed");
    log.put(&mut pen, &Body::Revocation(Revocation { node: node(4) }), Rev(3));
    let again = log.seal(&mut pen, &mut rng).expect("changed");
    let mut logs = Logs::default();
    logs.apply(&revoked).expect("sound");
    assert_eq!(logs.apply(&garbled), Err(ApplyError::Revocation));
    logs.apply(&again).expect("said once more it is one still");
}

#[test]
fn each_part_of_the_longest_log_fits_into_a_message() {
    const PART_LEN_MAX: usize = 512 * 1024;
    let (mut pen, mut rng) = (pen(1), rng(1));
    let mut log = OwnLog::new(Shard::Cluster);
    for number in 0..LOG_RECORD_COUNT_MAX as u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        log.put(&mut pen, &Body::Revocation(Revocation { node: NodeId(id) }), Rev(1));
    }
    let mut source = Logs::default();
    source.apply(&log.seal(&mut pen, &mut rng).expect("changed")).expect("sound");
    let source = source.log(&Shard::Cluster, node(1)).expect("it is there");
    let (mut since, mut parts) = (None, 0);
    loop {
        let part = source.delta_since(since, PART_LEN_MAX);
        let mut verifier = Verifier::new(ClusterId([9; 32]), Verdicts::default());
        let bytes = minicbor::to_vec_with(&part, &mut verifier).expect("encodes").len();
        assert!(bytes <= PART_LEN_MAX + 9 * LOG_RECORD_COUNT_MAX + 1024, "{bytes} bytes");
        assert!(part.wire_len() + 1024 >= bytes, "{} of {bytes} bytes were counted", part.wire_len());
        parts += 1;
        if part.rest != Rest::More {
            break;
        }
        since = part.added.last().map(Verified::stamp);
    }
    assert!(parts > 1, "nothing was parted");
}

#[test]
fn records_for_another_cluster_with_another_key_or_too_long_are_refused() {
    let record = |body: Vec<u8>| Record {
        shard: shard(),
        kind: Kind(999),
        key: Vec::new(),
        boot: Boot(1),
        seq: Seq(1),
        rev: Rev(1),
        body,
    };
    let here = ClusterId([9; 32]);
    let reads = |signed: &Verified, cluster| {
        let bytes = minicbor::to_vec(signed).expect("encodes");
        minicbor::decode_with::<_, Verified>(&bytes, &mut Verifier::new(cluster, Verdicts::default())).is_ok()
    };
    let good = Verified::sign(&key(1), here, record(vec![1]));
    assert!(reads(&good, here), "kinds that nobody knows yet are kept");
    assert!(!reads(&good, ClusterId([8; 32])));
    assert!(!reads(&Verified::sign(&key(1), here, record(vec![0; crate::membership::RECORD_LEN_MAX])), here));
    let mut bytes = minicbor::to_vec(&good).expect("encodes");
    let at = bytes.windows(32).position(|window| window == node(1).0).expect("the origin");
    bytes[at..at + 32].copy_from_slice(&node(2).0);
    let forged = minicbor::decode_with::<_, Verified>(&bytes, &mut Verifier::new(here, Verdicts::default()));
    assert!(forged.is_err());
}

#[test]
fn a_verdict_of_one_cluster_is_none_of_another() {
    let verdicts = Verdicts::default();
    let fixture = Fixture::new(1);
    let mut log = OwnLog::new(shard());
    let mut pen = Pen::new(key(1), fixture.cluster, Boot(1));
    let def = NetworkDef { vni: Vni::of_signer(1, 0).expect("a VNI"), name: None, internal: true, nonce: [0; 16] };
    let bytes = minicbor::to_vec(log.put(&mut pen, &Body::NetworkDef(def), Rev(1))).expect("encodes");
    let reads = |cluster| {
        let mut verifier = Verifier::new(cluster, verdicts.clone());
        minicbor::decode_with::<_, Verified>(&bytes, &mut verifier).is_ok()
    };
    assert!(reads(fixture.cluster));
    assert!(reads(fixture.cluster), "and remembered");
    assert!(!reads(ClusterId([1; 32])));
}

/// The log as `delta` leaves it.
fn log_of(delta: &Delta) -> Log {
    Log::first(delta).expect("a whole log").0
}

fn granted(records: &OwnLog) -> Vec<u8> {
    let says = |to: &u8| records.record(Kind::GRANT, &node(*to).0).is_some();
    (2..10).filter(says).collect()
}

#[test]
fn a_writer_that_was_set_back_takes_up_what_it_forgot_and_nothing_that_was_ended() {
    let (mut first, mut rng) = (pen(1), rng(1));
    let mut log = OwnLog::new(shard());
    for to in [2, 3, 4] {
        log.put(&mut first, &grant(to), Rev(1));
    }
    let kept = log_of(&log.seal(&mut first, &mut rng).expect("changed"));
    log.put(&mut first, &grant(5), Rev(1));
    log.remove(Kind::GRANT, &node(3).0);
    let sealed = log.seal(&mut first, &mut rng).expect("changed");
    let forgotten = log_of(&log.whole(&sealed));

    let (mut second, mut log) = (pen(2), OwnLog::of(&kept));
    log.remove(Kind::GRANT, &node(4).0);
    log.put(&mut second, &grant(6), Rev(1));
    log.adopt(&mut second, &forgotten, |stamp| stamp <= kept.stamp());
    // 3 was ended by the life that is forgotten, 4 by this one; neither knew of the other.
    assert_eq!(granted(&log), [2, 5, 6]);
    let next = log.seal(&mut second, &mut rng).expect("changed");
    assert!(next.head.stamp() > forgotten.stamp());

    // To hear of it a second time brings nothing back that was ended meanwhile.
    log.remove(Kind::GRANT, &node(5).0);
    log.adopt(&mut second, &forgotten, |stamp| stamp <= forgotten.stamp());
    assert_eq!(granted(&log), [2, 6]);
}

#[test]
fn what_is_said_for_ever_is_never_taken_for_ended_and_what_came_after_it_stays() {
    let (mut first, mut rng) = (pen(1), rng(1));
    let mut log = OwnLog::new(shard());
    log.put(&mut first, &grant(2), Rev(1));
    let kept = log_of(&log.seal(&mut first, &mut rng).expect("changed"));
    let cert = NodeCert { node: node(8), name: "db-host".parse().expect("a label") };
    let for_ever = [
        Body::Revocation(Revocation { node: node(9) }),
        Body::Signer(Signer { node: node(7), number: 3 }),
        Body::NodeCert(cert),
        Body::Succession(Succession { node: node(9) }),
    ];
    for body in &for_ever {
        log.put(&mut first, body, Rev(1));
    }
    let sealed = log.seal(&mut first, &mut rng).expect("changed");
    let forgotten = log_of(&log.whole(&sealed));
    let says_all = |log: &OwnLog| for_ever.iter().all(|body| log.record(body.kind(), &body.key()).is_some());

    // A life without it says something, and the one after that hears of it.
    let (mut second, mut log) = (pen(500), OwnLog::of(&kept));
    log.put(&mut second, &grant(3), Rev(1));
    let sealed = log.seal(&mut second, &mut rng).expect("changed");
    let of_second = log_of(&log.whole(&sealed));
    let (mut third, mut log) = (pen(501), OwnLog::of(&of_second));
    log.adopt(&mut third, &forgotten, |_| true);
    assert!(says_all(&log));
    log.adopt(&mut third, &forgotten, |stamp| stamp <= kept.stamp() || stamp.boot == Boot(500));
    assert_eq!(granted(&log), [2, 3]);

    // The life that said it hears of the one that did not.
    let (mut fourth, mut log) = (pen(2), OwnLog::of(&forgotten));
    log.adopt(&mut fourth, &of_second, |stamp| stamp <= forgotten.stamp());
    assert!(says_all(&log));
    assert_eq!(granted(&log), [2, 3]);
}

#[test]
fn what_no_head_covers_yet_outlives_a_boot_that_another_log_has_moved_on() {
    let (mut first, mut rng) = (pen(1), rng(1));
    let mut log = OwnLog::new(shard());
    for to in [2, 3] {
        log.put(&mut first, &grant(to), Rev(1));
    }
    let kept = log_of(&log.seal(&mut first, &mut rng).expect("changed"));
    first.skip_past(Boot(7));
    for to in [2, 3, 4] {
        log.put(&mut first, &grant(to), Rev(2));
    }
    let sealed = log.seal(&mut first, &mut rng).expect("changed");
    let forgotten = log_of(&log.whole(&sealed));

    let (mut second, mut log) = (pen(3), OwnLog::of(&kept));
    let said = log.put(&mut second, &grant(2), Rev(3));
    log.remove(Kind::GRANT, &node(3).0);
    // The pen's other log is heard of first.
    second.skip_past(forgotten.head().boot);
    log.adopt(&mut second, &forgotten, |stamp| stamp <= kept.stamp());
    assert_eq!(granted(&log), [2, 4], "3 was ended, 4 is taken up");
    let kept_word = log.record(Kind::GRANT, &node(2).0).expect("granted");
    assert_eq!(kept_word.record().rev, said.record().rev);
    assert!(kept_word.stamp() > forgotten.stamp());
}

/// What a log says of a node: granted, or not any more, and with which rev.
fn word(log: &OwnLog, to: u8) -> Option<(Kind, Rev)> {
    let said = [Kind::GRANT, Kind::UNGRANT].into_iter().filter_map(|kind| log.record(kind, &node(to).0));
    let said: Vec<_> = said.map(|record| (record.record().kind, record.record().rev)).collect();
    assert!(said.len() <= 1, "two words of {to}: {said:?}");
    said.first().copied()
}

#[test]
fn of_whom_one_machine_grants_and_another_removes_under_the_same_key_a_word_stays() {
    let (mut first, mut rng) = (pen(1), rng(1));
    let ungrant = |to: u8| Body::Ungrant(Ungrant { node: node(to) });
    let take_back = |log: &mut OwnLog, pen: &mut Pen, to: u8, rev| {
        log.remove(Kind::GRANT, &node(to).0);
        log.put(pen, &ungrant(to), rev);
    };
    let give_again = |log: &mut OwnLog, pen: &mut Pen, to: u8, rev| {
        log.remove(Kind::UNGRANT, &node(to).0);
        log.put(pen, &grant(to), rev);
    };
    let mut log = OwnLog::new(shard());
    for to in [2, 3] {
        log.put(&mut first, &grant(to), Rev(1));
    }
    for to in [4, 5] {
        log.put(&mut first, &ungrant(to), Rev(2));
    }
    let copied = log_of(&log.seal(&mut first, &mut rng).expect("changed"));

    let mut copy = OwnLog::of(&copied);
    let mut pen_of_copy = pen(500);
    copy.put(&mut pen_of_copy, &grant(9), Rev(1));
    give_again(&mut copy, &mut pen_of_copy, 5, Rev(3));
    let sealed = copy.seal(&mut pen_of_copy, &mut rng).expect("changed");
    let heard = log_of(&copy.whole(&sealed));

    take_back(&mut log, &mut first, 2, Rev(2));
    log.put(&mut first, &grant(6), Rev(1));
    give_again(&mut log, &mut first, 4, Rev(3));
    let sealed = log.seal(&mut first, &mut rng).expect("changed");
    let known = log_of(&log.whole(&sealed));
    let mut later = pen(2);
    let mut log = OwnLog::of(&known);
    log.adopt(&mut later, &heard, |stamp| stamp <= known.stamp());

    assert_eq!(word(&log, 2), Some((Kind::UNGRANT, Rev(2))), "removed here, granted as before there");
    assert_eq!(word(&log, 3), Some((Kind::GRANT, Rev(1))), "granted before");
    assert_eq!(word(&log, 4), Some((Kind::UNGRANT, Rev(4))), "granted again here, which the copy does not know");
    assert_eq!(word(&log, 5), Some((Kind::GRANT, Rev(3))), "granted again there");
    assert_eq!(word(&log, 6), Some((Kind::UNGRANT, Rev(2))), "granted here, which the copy does not know");
    assert_eq!(word(&log, 9), Some((Kind::GRANT, Rev(1))), "granted there");
}

#[test]
fn an_older_record_takes_the_place_of_a_newer_one_that_is_said_no_more() {
    let (mut one, mut other, mut rng) = (pen(1), pen(1), rng(1));
    let mut old = OwnLog::new(shard());
    old.put(&mut one, &grant(2), Rev(1));
    let kept = log_of(&old.seal(&mut one, &mut rng).expect("changed"));
    let mut newer = OwnLog::of(&kept);
    for rev in 2..5 {
        newer.put(&mut one, &grant(2), Rev(rev));
    }
    let newer_head = newer.seal(&mut one, &mut rng).expect("changed");
    let mut logs = Logs::default();
    logs.apply(&newer.whole(&newer_head)).expect("sound");
    // Another life of the writer has gone on from the old state, and outranks the first.
    other.skip_past(Boot(1));
    let mut back = OwnLog::of(&kept);
    back.put(&mut other, &grant(3), Rev(1));
    let sealed = back.seal(&mut other, &mut rng).expect("changed");
    let whole = log_of(&back.whole(&sealed)).delta_since(None, usize::MAX);
    assert!(matches!(logs.apply(&whole), Ok(Applied::Changed { .. })));
    let says = |to| logs.log(&shard(), node(1))?.record(&Slot::new(Kind::GRANT, &node(to).0)).map(|r| r.record().rev);
    assert_eq!((says(2), says(3)), (Some(Rev(1)), Some(Rev(1))));
}
