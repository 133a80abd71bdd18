//! A link between members that tampers with what passes through it.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// Frames of HTTP/2 with at least so many bytes of an answer are tampered with.
const LARGE: usize = 1000;
/// An answer of so many bytes is a chunk's.
const CHUNK: usize = 500_000;
const FRAME_HEAD: usize = 9;
/// The type of frames with an answer's bytes.
const DATA: u8 = 0;

/// What is done to answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mischief {
    None,
    /// A byte of each answer is another.
    Corrupts,
    /// The connection ends within an answer.
    Cuts,
    /// Answers consist of the bytes of an earlier one.
    Replays,
    /// Answers stop, and do not end; the connection goes on.
    NeverEnds,
    /// From some answer on, nothing that passes means anything.
    Nonsense,
    /// Answers without frames have other numbers.
    Lies,
}

/// A proxy in front of a member. Ends when dropped.
pub(crate) struct Link {
    pub(crate) address: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    mischief: Mutex<Mischief>,
    struck: AtomicU64,
    /// The bytes of some chunk's answer.
    earlier: Mutex<Vec<u8>>,
}

impl Link {
    /// Listens, and connects whoever comes with that member.
    pub(crate) async fn to(member: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let shared = Arc::new(Shared {
            mischief: Mutex::new(Mischief::None),
            struck: AtomicU64::new(0),
            earlier: Mutex::default(),
        });
        let passing = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (shared, member) = (Arc::clone(&passing), member.clone());
                tokio::spawn(async move {
                    let Ok(to) = TcpStream::connect(member).await else {
                        return;
                    };
                    let (from_read, from_write) = from.into_split();
                    let (to_read, mut to_write) = to.into_split();
                    let mut from_read = from_read;
                    tokio::select! {
                        // Either end of the connection is the end of it.
                        _ = copy(&mut from_read, &mut to_write) => {}
                        _ = shared.answers(to_read, from_write) => {}
                    }
                });
            }
        });
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// Does this to answers from now on.
    pub(crate) fn does(&self, mischief: Mischief) {
        *self.shared.mischief.lock().expect("nobody panics") = mischief;
    }

    /// Answers tampered with so far.
    pub(crate) fn struck(&self) -> u64 {
        self.shared.struck.load(Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One answer, as it passes.
#[derive(Default)]
struct Answer {
    bytes: Vec<u8>,
    struck: bool,
}

impl Shared {
    /// Passes the member's side of a connection on, frame by frame.
    async fn answers(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut answers: HashMap<u32, Answer> = HashMap::new();
        let mut noise = false;
        loop {
            let mut frame = vec![0; FRAME_HEAD];
            from.read_exact(&mut frame).await?;
            let len = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
            let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
            frame.resize(FRAME_HEAD + len, 0);
            from.read_exact(&mut frame[FRAME_HEAD..]).await?;
            if frame[3] == DATA {
                let mischief = *self.mischief.lock().expect("nobody panics");
                let answer = answers.entry(stream).or_default();
                match self.tamper(mischief, answer, &mut frame) {
                    Passes::Yes => {}
                    Passes::No => continue,
                    Passes::Half => {
                        to.write_all(&frame[..frame.len() / 2]).await?;
                        return Ok(());
                    }
                    Passes::Noise => noise = true,
                }
            }
            if noise {
                frame.fill(b'~');
            }
            to.write_all(&frame).await?;
        }
    }

    fn tamper(&self, mischief: Mischief, answer: &mut Answer, frame: &mut [u8]) -> Passes {
        let payload = &mut frame[FRAME_HEAD..];
        let at = answer.bytes.len();
        answer.bytes.extend_from_slice(payload);
        let mut earlier = self.earlier.lock().expect("nobody panics");
        if mischief == Mischief::Replays {
            let again = earlier.get(at..).unwrap_or_default();
            let len = again.len().min(payload.len());
            if len > 0 {
                payload[..len].copy_from_slice(&again[..len]);
                self.strikes(answer);
            }
            return Passes::Yes;
        }
        if earlier.is_empty() && answer.bytes.len() > CHUNK {
            earlier.clone_from(&answer.bytes);
        }
        if answer.struck {
            return match mischief {
                Mischief::NeverEnds => Passes::No,
                _ => Passes::Yes,
            };
        }
        if mischief == Mischief::Lies {
            // Frames begin with their kind.
            let is_json = payload.starts_with(b"{");
            let mut digits = payload.iter_mut().filter(|byte| byte.is_ascii_digit());
            if is_json && let Some(digit) = digits.next() {
                *digit = if *digit == b'1' { b'2' } else { b'1' };
                self.strikes(answer);
            }
            return Passes::Yes;
        }
        if payload.len() < LARGE || mischief == Mischief::None {
            return Passes::Yes;
        }
        self.strikes(answer);
        match mischief {
            Mischief::None | Mischief::Replays | Mischief::Lies => Passes::Yes,
            Mischief::Corrupts => {
                payload[payload.len() / 2] ^= 1;
                Passes::Yes
            }
            Mischief::Cuts => Passes::Half,
            Mischief::NeverEnds => Passes::No,
            Mischief::Nonsense => Passes::Noise,
        }
    }

    fn strikes(&self, answer: &mut Answer) {
        if !answer.struck {
            answer.struck = true;
            self.struck.fetch_add(1, Relaxed);
        }
    }
}

/// What becomes of a frame.
enum Passes {
    Yes,
    No,
    /// Half of it does, and then nothing.
    Half,
    /// Nor does anything else.
    Noise,
}
