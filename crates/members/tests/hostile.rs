//! Members by name, against name servers that are broken, or mean it.

mod looks;

use futures_util::future::join_all;
use gannet_members::{Discovery, Family};
use looks::{Looks, members};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;
/// The name that was asked for, as a pointer to it.
const NAME: [u8; 2] = [0xc0, 12];
const TRUNCATED: u16 = 0x0200;

/// A question, as far as a liar has to read it.
struct Question<'a> {
    id: &'a [u8],
    /// Name, type and class.
    bytes: &'a [u8],
    kind: u16,
    over_tcp: bool,
}

impl<'a> Question<'a> {
    fn read(message: &'a [u8], over_tcp: bool) -> Self {
        let end = 12 + message[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        Self {
            id: &message[..2],
            bytes: &message[12..end],
            kind: u16::from_be_bytes([message[end - 4], message[end - 3]]),
            over_tcp,
        }
    }

    fn answer(&self, flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
        let mut message = self.id.to_vec();
        message.extend((0x8180 | flags).to_be_bytes());
        message.extend([0, 1]);
        message.extend((records.len() as u16).to_be_bytes());
        message.extend([0; 4]);
        message.extend(self.bytes);
        message.extend(records.concat());
        message
    }
}

fn record(name: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = name.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 60]);
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}

/// A name of one label.
fn label(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes(), &[0]].concat()
}

type Lie = fn(&Question<'_>, usize) -> Option<Vec<u8>>;

/// Answers with lies, and with the truth (10.0.0.1) once told to.
async fn server(lie: Lie) -> (SocketAddr, Arc<AtomicBool>) {
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // That the port is free over UDP too is likely only.
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let addr = udp.local_addr().unwrap();
    let honest = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let reply = {
        let honest = honest.clone();
        move |message: &[u8], over_tcp: bool| {
            let question = Question::read(message, over_tcp);
            let count = asked.fetch_add(1, Ordering::Relaxed);
            if !honest.load(Ordering::Relaxed) {
                return lie(&question, count);
            }
            let records = match question.kind {
                A => vec![record(&NAME, A, &[10, 0, 0, 1])],
                _ => Vec::new(),
            };
            Some(question.answer(0, &records))
        }
    };
    let by_udp = reply.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
            if let Some(answer) = by_udp(&buffer[..len], false) {
                udp.send_to(&answer, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let reply = reply.clone();
            tokio::spawn(async move {
                while let Ok(len) = stream.read_u16().await {
                    let mut message = vec![0; len.into()];
                    stream.read_exact(&mut message).await?;
                    if let Some(answer) = reply(&message, true) {
                        stream.write_u16(answer.len() as u16).await?;
                        stream.write_all(&answer).await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    (addr, honest)
}

fn by_name(name: &str, server: SocketAddr, every: Duration) -> Discovery {
    Discovery::Dns {
        name: name.parse().unwrap(),
        server: Some(server),
        every,
        port: 9001,
        family: Family::Any,
    }
}

#[tokio::test]
async fn whatever_a_server_says_the_look_fails_and_the_next_may_work() {
    let lies: &[(&str, Lie)] = &[
        ("says nothing", |_, _| None),
        ("sends an empty datagram", |_, _| Some(Vec::new())),
        ("sends nonsense", |_, count| {
            Some(vec![count as u8 ^ 0x5a; 200])
        }),
        ("answers another question", |question, _| {
            let mut answer = question.answer(0, &[record(&NAME, A, &[10, 6, 6, 6])]);
            answer[0] ^= 0xff;
            Some(answer)
        }),
        ("answers for another name", |question, _| {
            Some(question.answer(0, &[record(&label("other"), A, &[10, 6, 6, 6])]))
        }),
        ("does not know such a name", |question, _| {
            Some(question.answer(3, &[]))
        }),
        ("knows no address", |question, _| {
            Some(question.answer(0, &[]))
        }),
        ("fails", |question, _| Some(question.answer(2, &[]))),
        ("does not understand", |question, _| {
            Some(question.answer(1, &[]))
        }),
        ("refuses", |question, _| Some(question.answer(5, &[]))),
        ("names nobody's addresses", |question, _| {
            Some(question.answer(
                0,
                &[
                    record(&NAME, A, &[0, 0, 0, 0]),
                    record(&NAME, A, &[224, 0, 0, 1]),
                    record(&NAME, AAAA, &[0; 16]),
                ],
            ))
        }),
        ("names aliases in a circle", |question, _| {
            let other = label("other");
            Some(question.answer(
                0,
                &[record(&NAME, CNAME, &other), record(&other, CNAME, &NAME)],
            ))
        }),
        ("names alias after alias", |question, count| {
            Some(question.answer(0, &[record(&NAME, CNAME, &label(&format!("x{count}")))]))
        }),
        ("names itself as its alias", |question, _| {
            Some(question.answer(0, &[record(&NAME, CNAME, &NAME)]))
        }),
        ("points in a circle", |question, _| {
            let at = (12 + question.bytes.len()) as u8;
            Some(question.answer(0, &[record(&[0xc0, at], A, &[10, 6, 6, 6])]))
        }),
        ("has fewer records than it says", |question, _| {
            let mut answer = question.answer(0, &[record(&NAME, A, &[10, 6, 6, 6])]);
            answer[6..8].fill(0xff);
            Some(answer)
        }),
        ("breaks off within a record", |question, _| {
            let mut answer = question.answer(0, &[record(&NAME, A, &[10, 6, 6, 6])]);
            answer.truncate(answer.len() - 2);
            Some(answer)
        }),
        ("sends addresses of another length", |question, _| {
            Some(question.answer(
                0,
                &[record(&NAME, A, &[10, 6, 6]), record(&NAME, A, &[10; 9])],
            ))
        }),
        ("is always cut short", |question, _| {
            Some(question.answer(TRUNCATED, &[]))
        }),
        ("is cut short, and silent over TCP", |question, _| {
            (!question.over_tcp).then(|| question.answer(TRUNCATED, &[]))
        }),
        ("sends nonsense over TCP", |question, _| {
            Some(match question.over_tcp {
                true => vec![0xff; 60_000],
                false => question.answer(TRUNCATED, &[]),
            })
        }),
    ];
    let every = Duration::from_millis(500);
    join_all(lies.iter().map(async |(what, lie)| {
        let (addr, honest) = server(*lie).await;
        let mut looks = Looks::watch(by_name("cache.test", addr, every)).await;
        for _ in 0..2 {
            assert_eq!(looks.next().await, None, "one that {what}");
        }
        honest.store(true, Ordering::Relaxed);
        looks.until_some(&members("10.0.0.1:9001")).await;
    }))
    .await;
}

#[tokio::test]
async fn one_kind_of_address_is_enough() {
    let (addr, _) = server(|question, _| {
        Some(match question.kind {
            A => question.answer(0, &[record(&NAME, A, &[10, 0, 0, 7])]),
            _ => question.answer(2, &[]),
        })
    })
    .await;
    let mut looks = Looks::watch(by_name("cache.test", addr, Duration::from_secs(1))).await;
    looks.until_some(&members("10.0.0.7:9001")).await;
}

/// More than there may be, in another order every time.
fn crowd(question: &Question<'_>, count: usize) -> Option<Vec<u8>> {
    if !question.over_tcp {
        return Some(question.answer(TRUNCATED, &[]));
    }
    let mut records: Vec<_> = (0..2200_u16)
        .map(|n| match question.kind {
            A => record(&NAME, A, &[10, 0, (n >> 8) as u8, n as u8]),
            _ => {
                let mut ip = [0xfd; 16];
                ip[14..].copy_from_slice(&n.to_be_bytes());
                record(&NAME, AAAA, &ip)
            }
        })
        .collect();
    records.rotate_left(count * 37 % 2200);
    Some(question.answer(0, &records))
}

#[tokio::test]
async fn a_crowd_is_cut_and_all_cut_the_same() {
    let (addr, _) = server(crowd).await;
    let every = Duration::from_secs(5);
    let mut one = Looks::watch(by_name("cache.test", addr, every)).await;
    let mut other = Looks::watch(by_name("cache.test", addr, every)).await;
    let mut found = one.next().await;
    while found.as_ref().is_none_or(|found| found.len() < 4096) {
        found = one.next().await;
    }
    let found = found.unwrap();
    assert_eq!(found.len(), 4096);
    assert!(found.is_sorted());
    other.until_some(&found).await;
}

/// Thousands of targets, none of which can be looked up.
fn targets(question: &Question<'_>, _: usize) -> Option<Vec<u8>> {
    if question.kind != SRV {
        return None;
    }
    if !question.over_tcp {
        return Some(question.answer(TRUNCATED, &[]));
    }
    let target = |n: u16| [&[0, 0, 0, 0, 1, 1][..], &label(&format!("t{n}"))].concat();
    let mut records: Vec<_> = (0..2000).map(|n| record(&NAME, SRV, &target(n))).collect();
    // Decidedly nobody.
    records.push(record(&NAME, SRV, &[0, 0, 0, 0, 1, 1, 0]));
    Some(question.answer(0, &records))
}

#[tokio::test]
async fn targets_without_end_take_one_look_and_no_more() {
    let (addr, honest) = server(targets).await;
    let every = Duration::from_millis(500);
    let mut looks = Looks::watch(by_name("_gannet._tcp.cache.test", addr, every)).await;
    looks.until_failed(3).await;
    // Told the truth, it has no targets: still looking, still nobody.
    honest.store(true, Ordering::Relaxed);
    looks.until_failed(2).await;
}
