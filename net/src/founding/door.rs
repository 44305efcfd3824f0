//! The client port of a server without a cluster: words are answered, and clients sent away.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::client::words;
use crate::config::Whitelist;

/// Answers four-letter words, and closes every other connection: the client tries another server.
pub(super) async fn attend(port: TcpListener, allowed: Whitelist) {
    let allowed = Rc::new(allowed);
    let open = Rc::new(Cell::new(0));
    loop {
        match port.accept().await {
            Ok((stream, _)) if open.get() < CONNECTIONS_MAX => {
                let (allowed, open) = (allowed.clone(), open.clone());
                open.set(open.get() + 1);
                spawn_local(async move {
                    // Whether the answer arrives is the client's affair.
                    let _ = timeout(ANSWER_TIME_MAX, answer(stream, &allowed)).await;
                    open.set(open.get() - 1);
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, allowed: &Whitelist) -> io::Result<()> {
    let mut word = [0; 4];
    stream.read_exact(&mut word).await?;
    let text = match words::without_figures(&word, allowed) {
        Some(text) => text,
        None if word == *b"isro" => "null".to_owned(),
        None => words::NOT_SERVING.to_owned(),
    };
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

const CONNECTIONS_MAX: usize = 128;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
const ACCEPT_REST: Duration = Duration::from_millis(100);
