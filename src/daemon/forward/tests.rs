//! Forwarding with upstreams on loopback.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;

use super::super::resolver::Place;
use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// What an upstream says to a question, after how many it has been asked before.
type Say = fn(&mut Message, usize, bool);

/// An upstream on UDP and TCP; how often it was asked.
async fn upstream(say: Say) -> (u16, Arc<AtomicUsize>) {
    let stream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let port = stream.local_addr().expect("bound").port();
    let datagram = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await.expect("binds");
    let asked = Arc::new(AtomicUsize::new(0));
    let answer = |asked: Arc<AtomicUsize>, by_stream| {
        move |query: &[u8]| {
            let mut message = Message::from_vec(query).expect("a query");
            message.metadata.message_type = MessageType::Response;
            say(&mut message, asked.fetch_add(1, Ordering::Relaxed), by_stream);
            message.to_vec().expect("encodes")
        }
    };
    let by_datagram = answer(asked.clone(), false);
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while let Ok((len, from)) = datagram.recv_from(&mut bytes).await {
            datagram.send_to(&by_datagram(&bytes[..len]), from).await.expect("sent");
        }
    });
    let by_stream = answer(asked.clone(), true);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = stream.accept().await {
            let mut bytes = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
            stream.read_exact(&mut bytes).await.expect("a query");
            let message = by_stream(&bytes);
            stream.write_u16(message.len() as u16).await.expect("sent");
            stream.write_all(&message).await.expect("sent");
        }
    });
    (port, asked)
}

fn address(message: &mut Message, last: u8) {
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, last)))));
}

/// A forwarder that asks on `port`, and the channels of its resolver.
struct Lab {
    questions: mpsc::Sender<Question>,
    answers: mpsc::Receiver<Answer>,
}

impl Lab {
    fn new(nameservers: &str, port: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder").keep();
        let file = folder.join("resolv.conf");
        std::fs::write(&file, nameservers).expect("written");
        let (questions, inbox) = mpsc::channel(64);
        let (outbox, answers) = mpsc::channel(64);
        let outside = Outside { questions: inbox, answers: outbox };
        tokio::spawn(run(outside, Upstreams::of(file).on_port(port), || {}));
        Self { questions, answers }
    }

    async fn ask(&self, network: &str, name: &str) {
        self.ask_as(AttachmentId([1; 8]), network, name).await;
    }

    async fn ask_as(&self, attachment: AttachmentId, network: &str, name: &str) {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let question = Question {
            attachment,
            network: network.parse().expect("an id"),
            place: Place::Datagram { container: any, resolver: any },
            query: message.to_vec().expect("encodes"),
        };
        self.questions.send(question).await.expect("it runs");
    }

    async fn hear(&mut self) -> (ResponseCode, usize, u32) {
        let answer = tokio::time::timeout(DEADLINE, self.answers.recv()).await.expect("in time").expect("it runs");
        let message = Message::from_vec(&answer.message).expect("an answer");
        assert_eq!(message.id, 7);
        (message.response_code, message.answers.len(), message.answers.first().map_or(0, |record| record.ttl))
    }
}

const LOOPBACK: &str = "nameserver 127.0.0.1\n";

#[tokio::test]
async fn an_answer_is_kept_for_its_network_and_not_told_to_another() {
    let (port, asked) = upstream(|message, _, _| address(message, 1)).await;
    let mut lab = Lab::new(LOOPBACK, port);
    for (network, asked_then) in [("pn-a", 1), ("pn-a", 1), ("pn-b", 2), ("pn-a", 2)] {
        lab.ask(network, "www.example.org.").await;
        assert_eq!(lab.hear().await, (ResponseCode::NoError, 1, 60));
        assert_eq!(asked.load(Ordering::Relaxed), asked_then);
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_asked_for_again_by_tcp() {
    let say: Say = |message, _, by_stream| {
        address(message, 1);
        message.metadata.truncation = !by_stream;
        if by_stream {
            (2..20).for_each(|last| address(message, last));
        }
    };
    let (port, asked) = upstream(say).await;
    let mut lab = Lab::new(LOOPBACK, port);
    lab.ask("pn-a", "www.example.org.").await;
    assert_eq!(lab.hear().await, (ResponseCode::NoError, 19, 60));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn questions_alike_wait_for_one_answer() {
    let (port, asked) = upstream(|message, _, _| address(message, 1)).await;
    let mut lab = Lab::new(LOOPBACK, port);
    for _ in 0..10 {
        lab.ask("pn-a", "WWW.example.org.").await;
    }
    for _ in 0..10 {
        assert_eq!(lab.hear().await.1, 1);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_upstream_that_fails_or_is_not_there_is_passed_over() {
    let (port, asked) = upstream(|message, before, _| {
        if before == 0 {
            message.metadata.response_code = ResponseCode::ServFail;
        } else {
            address(message, 1);
        }
    })
    .await;
    let mut lab = Lab::new("nameserver 127.0.0.1\nnameserver 127.0.0.2\n", port);
    lab.ask("pn-a", "www.example.org.").await;
    assert_eq!(lab.hear().await, (ResponseCode::NoError, 1, 60));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn without_upstreams_there_is_a_failure_at_once() {
    let mut lab = Lab::new("nameserver 169.254.240.53\n", 1);
    lab.ask("pn-a", "www.example.org.").await;
    assert_eq!(lab.hear().await.0, ResponseCode::ServFail);
}

#[tokio::test]
async fn one_container_gets_so_many_answers_from_upstreams_a_second() {
    let (port, asked) = upstream(|message, _, _| address(message, 1)).await;
    let mut lab = Lab::new(LOOPBACK, port);
    let (mut failed, begun) = (0, clock::now());
    for n in 0..400 {
        lab.ask("pn-a", &format!("host{n}.example.org.")).await;
        failed += usize::from(lab.hear().await.0 == ResponseCode::ServFail);
    }
    let due = 201 + (200.0 * begun.elapsed().as_secs_f64()) as usize;
    let asked = asked.load(Ordering::Relaxed);
    assert!((200..=due).contains(&asked) && asked + failed == 400, "{asked} asked, {failed} failed");
}

#[tokio::test]
async fn containers_that_ask_for_what_never_answers_leave_places_to_one_that_does_not() {
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let port = upstream.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while let Ok((len, from)) = upstream.recv_from(&mut bytes).await {
            let mut message = Message::from_vec(&bytes[..len]).expect("a query");
            if message.queries[0].name().to_string().starts_with("www.") {
                message.metadata.message_type = MessageType::Response;
                address(&mut message, 1);
                upstream.send_to(&message.to_vec().expect("encodes"), from).await.expect("sent");
            }
        }
    });
    let mut lab = Lab::new(LOOPBACK, port);
    let mut refused = [0; 16];
    for container in 0..16 {
        for n in 0..128 {
            lab.ask_as(AttachmentId([container; 8]), "pn-a", &format!("{n}.{container}.example.org.")).await;
            while let Ok(answer) = lab.answers.try_recv() {
                assert!(answer.refused);
                refused[usize::from(answer.attachment.0[0])] += 1;
            }
        }
    }
    assert!(refused[0] < 16, "the first one found all places free, and was refused {} times", refused[0]);
    assert!(refused.iter().all(|refused| *refused < 128), "one had no place at all: {refused:?}");
    lab.ask_as(AttachmentId([99; 8]), "pn-b", "www.example.org.").await;
    let answer = async {
        loop {
            let answer = lab.answers.recv().await.expect("it runs");
            if answer.attachment == AttachmentId([99; 8]) {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(DEADLINE, answer).await.expect("in time");
    assert!(!answer.refused);
    assert_eq!(Message::from_vec(&answer.message).expect("an answer").answers.len(), 1);
}
