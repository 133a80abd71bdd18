//! Two Kitsune2 nodes on loopback, over iroh: one makes ops and publishes them, the other fetches
//! them.
//!
//! ```console
//! $ cargo run -p gannet-kitsune2 --example two_nodes
//! ```
//!
//! To see the same with the stock module, leave the line that begins with `fetch:` out: nothing else
//! changes. The bootstrap and relay server is Kitsune2's own for tests, on loopback too.

use gannet_kitsune2::{GannetFetchFactory, Monitor};
use kitsune2_api::*;
use kitsune2_core::{
    Ed25519LocalAgent, default_test_builder,
    factories::{MemBootstrapModConfig, MemoryOp},
};
use kitsune2_test_utils::{bootstrap::TestBootstrapSrv, space::TEST_SPACE_ID};
use kitsune2_transport_iroh::{IrohTransportConfig, IrohTransportFactory, IrohTransportModConfig};
use std::{sync::Arc, time::Duration};

const OPS: usize = 1_000;
const OP_BYTES: usize = 256;

#[derive(Debug)]
struct Host;

impl SpaceHandler for Host {}

impl KitsuneHandler for Host {
    fn create_space(
        &self,
        _space: SpaceId,
        _config: Option<&Config>,
    ) -> BoxFut<'_, K2Result<DynSpaceHandler>> {
        Box::pin(async {
            let handler: DynSpaceHandler = Arc::new(Self);
            Ok(handler)
        })
    }
}

/// Starts a node, and joins a space with an agent. The node lives as long as what is returned.
async fn start(
    relay_url: String,
    bootstrap: &MemBootstrapModConfig,
    monitor: &Monitor,
) -> K2Result<(DynKitsune, DynSpace)> {
    let builder = Builder {
        fetch: GannetFetchFactory::monitored(monitor),
        transport: IrohTransportFactory::create(),
        ..default_test_builder()
    }
    .with_default_config()?;
    builder.config.set_module_config(bootstrap)?;
    builder.config.set_module_config(&IrohTransportModConfig {
        iroh_transport: IrohTransportConfig {
            relay_url: Some(relay_url),
            relay_allow_plain_text: true,
            ..Default::default()
        },
    })?;
    let kitsune = builder.build().await?;
    kitsune.register_handler(Arc::new(Host)).await?;
    let space = kitsune.space(TEST_SPACE_ID, None).await?;
    let agent = Arc::new(Ed25519LocalAgent::default());
    space.local_agent_join(agent).await?;
    Ok((kitsune, space))
}

/// Until two nodes have met, each knows both agents.
async fn met(space: &DynSpace) -> K2Result<()> {
    while space.peer_store().get_all().await?.len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn op(n: usize) -> MemoryOp {
    let mut data = format!("op {n} of {OPS}").into_bytes();
    data.resize(OP_BYTES, b'.');
    MemoryOp::new(Timestamp::now(), data)
}

#[tokio::main]
async fn main() -> K2Result<()> {
    let server = TestBootstrapSrv::new(false).await;
    let relay_url = format!("{}/relay", server.addr());
    let mut bootstrap = MemBootstrapModConfig::default();
    bootstrap.mem_bootstrap.poll_freq_ms = 100;
    let (writer_sees, reader_sees) = (Monitor::default(), Monitor::default());
    let (_a, writer) = start(relay_url.clone(), &bootstrap, &writer_sees).await?;
    let (_b, reader) = start(relay_url, &bootstrap, &reader_sees).await?;
    met(&writer).await?;
    met(&reader).await?;
    let url = |space: &DynSpace| space.current_url().expect("it has met another node");
    println!("writer: {}\nreader: {}", url(&writer), url(&reader));

    // The writer's host makes ops, and tells the reader of them.
    let ops: Vec<IncomingOp> = (0..OPS).map(|n| op(n).into()).collect();
    let ids = writer.op_store().process_incoming_ops(ops).await?;
    let publish = ids.iter().map(|op_id| PublishOp {
        op_id: op_id.clone(),
        metadata: None,
    });
    let began = std::time::Instant::now();
    writer
        .publish()
        .publish_ops(publish.collect(), url(&reader))
        .await?;

    // The reader's fetch module gets them.
    let arrived = loop {
        let arrived = reader.op_store().retrieve_ops(ids.clone()).await?;
        if arrived.len() == ids.len() {
            break arrived;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let took = began.elapsed();
    let bytes: usize = arrived.iter().map(|op| op.op_data.len()).sum();
    let first = MemoryOp::from(arrived[0].op_data.clone());
    let text = String::from_utf8_lossy(&first.op_data);
    println!("{:?}", text.trim_end_matches('.'));
    println!("{OPS} ops, {bytes} bytes, in {took:.1?} (the connection included)");
    let (_, asked) = reader_sees.stats()[0];
    let (_, served) = writer_sees.stats()[0];
    println!(
        "{} requests and {} responses; the stock module sends {OPS} of each",
        asked.requests_sent, served.responses_sent
    );
    Ok(())
}
