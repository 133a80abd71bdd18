//! Fetches a file from three HTTP sources, of which one is dead and one lies. A key is the SHA-256 of
//! what it names, so that a lie is found out.
//!
//!     cargo run -p gannet --example quickstart

use gannet::{
    Body, Fetcher,
    engine::{GroupId, SourceId, Verdict},
    http::{Client, ClientConfig, HttpMeta, HttpTransport},
};
use sha2::{Digest, Sha256};
use std::{error::Error, io, net::Ipv4Addr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// An HTTP server that has one thing to say. Gives its address.
async fn serve(says: &'static str) -> io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 1024]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", says.len());
            let _ = socket.write_all((head + says).as_bytes()).await;
        }
    });
    Ok(address)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let key: [u8; 32] = Sha256::digest("Northern gannet").into();
    let client = Client::new(ClientConfig::default())?;
    let transport = HttpTransport::new(client, |_key: &[u8; 32]| "/bird".to_owned());
    transport.add(SourceId(1), "http://127.0.0.1:1".parse()?); // dead
    transport.add(SourceId(2), serve("Blue-footed booby").await?.parse()?); // lies
    transport.add(SourceId(3), serve("Northern gannet").await?.parse()?);

    let fetcher = Fetcher::builder(transport)
        .judge(
            |key: &[u8; 32], _: &HttpMeta, body: &Body| match Sha256::digest(body.to_bytes()) {
                hash if hash[..] == key[..] => Verdict::Valid,
                _ => Verdict::Invalid,
            },
        )
        .build()?;
    (1..=3).for_each(|n| fetcher.add_source(SourceId(n), GroupId(n)));

    let fetched = fetcher.fetch(key).await?;
    let text = String::from_utf8_lossy(&fetched.body.to_bytes()).into_owned();
    println!(
        "source {} answered: {text}",
        fetched.sources.as_slice()[0].0
    );
    Ok(())
}
