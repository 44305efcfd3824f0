//! A link between two servers of which one has no cluster yet.
//!
//! Members of a cluster say in their hello that they are, and have nothing more to say to a server
//! without one: such a link ends with the hellos.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use pigeonhole_core::base::id::ServerId;
use pigeonhole_core::base::limits::{DIAL_BACKOFF_MS_MAX, DIAL_BACKOFF_MS_MIN, GREETINGS_MAX};
use pigeonhole_core::peer::codec::{self, Frame};
use pigeonhole_core::peer::formation::{FormationMessage, Standing};
use pigeonhole_core::peer::hello::{Hello, HelloError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

use crate::config::HostPort;
use crate::engine::clock::Clock;
use crate::founding::FIRST_CORE;
use crate::peer::greeting::{Complaints, Identity, Refusal, read_hello};

/// Tells apart the links that one peer has had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LinkNumber(u64);

pub(super) type Outbox = UnboundedSender<FormationMessage>;

/// What links report. Everything about one link comes in order.
pub(super) enum Event {
    Up { peer: ServerId, number: LinkNumber, standing: Standing, outbox: Outbox },
    Heard { peer: ServerId, number: LinkNumber, message: FormationMessage },
    Down { peer: ServerId, number: LinkNumber },
}

/// What all links share.
pub(super) struct Scene {
    identity: RefCell<Identity>,
    events: UnboundedSender<Event>,
    complaints: RefCell<Complaints>,
    numbers: Cell<u64>,
    greetings: Cell<usize>,
    pub(super) clock: Clock,
    /// Closed when the last link has ended, because every link holds the scene.
    _lingering: Sender<()>,
}

/// A peer's hello and what came behind it, or why it is not listened to.
type Greeted = Result<(Hello, Vec<u8>), Refusal>;

/// Why a link is over.
enum End {
    Lost,
    /// The last message was sent, and nothing more will come.
    Dismissed,
}

impl Scene {
    pub(super) fn new(
        identity: Identity,
        events: UnboundedSender<Event>,
        clock: Clock,
        lingering: Sender<()>,
    ) -> Self {
        Self {
            identity: RefCell::new(identity),
            events,
            complaints: RefCell::default(),
            numbers: Cell::new(0),
            greetings: Cell::new(0),
            clock,
            _lingering: lingering,
        }
    }

    /// From here on hellos say so.
    pub(super) fn set_standing(&self, standing: Standing) {
        let mut identity = self.identity.borrow_mut();
        identity.formation = standing.formation();
        identity.cluster = standing.cluster();
    }

    fn next_number(&self) -> LinkNumber {
        self.numbers.set(self.numbers.get() + 1);
        LinkNumber(self.numbers.get())
    }

    fn report(&self, event: Event) {
        // Without a listener the cluster is founded, and news come too late.
        let _ = self.events.send(event);
    }

    fn refuse(&self, who: &str, refusal: Refusal) {
        let now = self.clock.now().instant;
        self.complaints.borrow_mut().refuse(who, refusal, now);
    }

    fn cannot_find(&self, peer: ServerId) {
        let now = self.clock.now().instant;
        self.complaints.borrow_mut().cannot_find(peer, now);
    }

    fn greeting(&self, to: ServerId) -> Vec<u8> {
        let identity = self.identity.borrow();
        identity.greeting(FIRST_CORE, to, FIRST_CORE)
    }
}

/// Takes in whoever connects to the peer port.
pub(super) async fn accept(port: TcpListener, scene: Rc<Scene>) {
    loop {
        match port.accept().await {
            Ok((stream, from)) if scene.greetings.get() < GREETINGS_MAX => {
                let scene = scene.clone();
                spawn_local(async move { attend_accepted(stream, from.ip(), &scene).await });
            }
            // Whoever is meant to be here dials again.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Dials a peer, again and again, and keeps up the link.
pub(super) async fn dial(peer: ServerId, address: HostPort, scene: Rc<Scene>) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let connecting = TcpStream::connect((address.host.as_str(), address.port));
        let connected = timeout(GREETING_TIME_MAX, connecting).await;
        // Connections are refused by the system, and names by its library.
        if matches!(&connected, Ok(Err(error)) if error.raw_os_error().is_none()) {
            scene.cannot_find(peer);
        }
        if let Ok(Ok(mut stream)) = connected {
            let greeted = timeout(GREETING_TIME_MAX, greet_dialed(&mut stream, peer, &scene)).await;
            if let Some((hello, rest)) = outcome(greeted, &format!("server {peer}"), &scene) {
                // The link lives on when there is nobody left who would dial again.
                let link = spawn_local(attend(stream, hello, rest, scene.clone()));
                if link.await.is_ok_and(|conversed| conversed) {
                    backoff = BACKOFF_MIN;
                }
            }
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn attend_accepted(mut stream: TcpStream, from: IpAddr, scene: &Rc<Scene>) {
    scene.greetings.set(scene.greetings.get() + 1);
    let greeted = timeout(GREETING_TIME_MAX, greet_dialer(&mut stream, scene)).await;
    scene.greetings.set(scene.greetings.get() - 1);
    if let Some((hello, rest)) = outcome(greeted, &from.to_string(), scene) {
        attend(stream, hello, rest, scene.clone()).await;
    }
}

/// The hello and what came behind it; complains where that is of use to somebody.
fn outcome(
    greeted: Result<io::Result<Greeted>, Elapsed>,
    who: &str,
    scene: &Scene,
) -> Option<(Hello, Vec<u8>)> {
    match greeted {
        Ok(Ok(Ok(greeted))) => Some(greeted),
        Ok(Ok(Err(refusal))) => {
            scene.refuse(who, refusal);
            None
        }
        Ok(Err(_)) | Err(_) => None,
    }
}

async fn greet_dialed(
    stream: &mut TcpStream,
    peer: ServerId,
    scene: &Scene,
) -> io::Result<Greeted> {
    stream.set_nodelay(true)?;
    let greeting = scene.greeting(peer);
    stream.write_all(&greeting).await?;
    let heard = hear_hello(stream).await?;
    let identity = scene.identity.borrow();
    Ok(heard.and_then(|(hello, rest)| {
        identity.judge_place(&hello)?;
        if hello.from == peer {
            Ok((hello, rest))
        } else {
            Err(Refusal::OtherServer { found: hello.from })
        }
    }))
}

async fn greet_dialer(stream: &mut TcpStream, scene: &Scene) -> io::Result<Greeted> {
    stream.set_nodelay(true)?;
    let (hello, rest) = match hear_hello(stream).await? {
        Ok(heard) => heard,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let judged = scene.identity.borrow().judge_place(&hello);
    if let Err(refusal) = judged {
        return Ok(Err(refusal));
    }
    let greeting = scene.greeting(hello.from);
    stream.write_all(&greeting).await?;
    Ok(Ok((hello, rest)))
}

async fn hear_hello(stream: &mut TcpStream) -> io::Result<Greeted> {
    let mut input = Vec::new();
    loop {
        match read_hello(&input) {
            Ok(Some((hello, length))) => return Ok(Ok((hello, input.split_off(length)))),
            Ok(None) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Reports what comes and sends what is to be said, until one side goes. Says whether there was
/// anything to be said.
async fn attend(stream: TcpStream, hello: Hello, rest: Vec<u8>, scene: Rc<Scene>) -> bool {
    let peer = hello.from;
    let Some(standing) = Standing::from_hello(hello.formation, hello.cluster) else {
        let who = format!("server {peer}");
        scene.refuse(&who, Refusal::Hello(HelloError::NotAPeer));
        return false;
    };
    let number = scene.next_number();
    let (outbox, messages) = unbounded_channel();
    scene.report(Event::Up { peer, number, standing, outbox });
    let link = Link { stream, peer, number };
    let conversed = !matches!(standing, Standing::Formed(_));
    if conversed {
        link.run(rest, messages, &scene).await;
    }
    scene.report(Event::Down { peer, number });
    conversed
}

struct Link {
    stream: TcpStream,
    peer: ServerId,
    number: LinkNumber,
}

impl Link {
    async fn run(
        mut self,
        rest: Vec<u8>,
        messages: UnboundedReceiver<FormationMessage>,
        scene: &Scene,
    ) {
        // An error of the socket is one more way to lose a link.
        if let Ok(End::Dismissed) = self.converse(rest, messages, scene).await {
            let _ = self.part().await;
        }
    }

    async fn converse(
        &mut self,
        mut input: Vec<u8>,
        mut messages: UnboundedReceiver<FormationMessage>,
        scene: &Scene,
    ) -> io::Result<End> {
        let (mut reader, mut writer) = self.stream.split();
        let mut ping = tokio::time::interval(PING_PERIOD);
        let mut heard = Instant::now();
        let mut output = Vec::new();
        loop {
            if take_frames(&mut input, |message| {
                scene.report(Event::Heard { peer: self.peer, number: self.number, message });
            })
            .is_err()
            {
                return Ok(End::Lost);
            }
            tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Some(message) => codec::encode_formation(&message, &mut output),
                    None => return Ok(End::Dismissed),
                },
                read = reader.read_buf(&mut input) => {
                    if read? == 0 {
                        return Ok(End::Lost);
                    }
                    heard = Instant::now();
                }
                _ = ping.tick() => {
                    if heard.elapsed() >= SILENCE {
                        return Ok(End::Lost);
                    }
                    codec::encode_ping(&mut output);
                }
            }
            timeout(SILENCE, writer.write_all(&output)).await??;
            output.clear();
        }
    }

    /// Says that nothing more comes, and waits until the peer says so too.
    async fn part(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut unread = Vec::new();
        while self.stream.read_buf(&mut unread).await? > 0 {
            unread.clear();
        }
        Ok(())
    }
}

/// Takes whole frames off the front of what was received.
fn take_frames(
    input: &mut Vec<u8>,
    mut on_message: impl FnMut(FormationMessage),
) -> Result<(), codec::FrameError> {
    while let Some(length) = codec::frame_bytes(input)? {
        if length > FRAME_BYTES_MAX {
            return Err(codec::FrameError::TooLong { bytes: length });
        }
        let Some(frame) = input.get(..length) else {
            break;
        };
        match codec::decode(frame)? {
            Frame::Formation(message) => on_message(message),
            Frame::Ping => {}
            // The peer has a cluster, and this server is none of its members yet.
            Frame::Message { .. } | Frame::Hello(_) => return Err(codec::FrameError::Malformed),
        }
        input.drain(..length);
    }
    Ok(())
}

const BACKOFF_MIN: Duration = Duration::from_millis(DIAL_BACKOFF_MS_MIN);
const BACKOFF_MAX: Duration = Duration::from_millis(DIAL_BACKOFF_MS_MAX);
/// Connecting, or both hellos. A peer that is about to start its cores takes its time.
const GREETING_TIME_MAX: Duration = Duration::from_secs(2);
const ACCEPT_REST: Duration = Duration::from_millis(100);
const PING_PERIOD: Duration = Duration::from_millis(200);
/// Longer than between members: nobody waits for a leader yet, and a disk may be slow.
const SILENCE: Duration = Duration::from_secs(2);
/// Frames of formation are small; nobody gets more memory than this.
const FRAME_BYTES_MAX: usize = 4096;
