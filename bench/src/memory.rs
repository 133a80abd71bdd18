//! Resident memory under a stampede, beside the tier that was configured.

use crate::{
    load,
    peers::{Kind, Peer, Run},
    report::{Section, number},
    stampede::BANDWIDTH,
};
use gannet_testkit::{
    content,
    origin::{Object, Origin, Pace},
};
use std::time::Duration;

pub(crate) async fn run(run: &Run) -> Section {
    let mut section = Section::new(
        "memory",
        "The most that was ever resident (all processes, sampled every 50 ms) while a stampede for a cold\n\
         object goes on, and what remains beside the memory tier: Gannet's is set to what the row says.\n\
         nginx caches on disk, Varnish in 6 GiB of memory.",
    );
    let mib = 1 << 20;
    let (clients, size) = run.pick((200, 256 * mib), (10, 32 * mib));
    let expected = content::bytes(3, 0, 0, size as usize);
    let cases = [
        (Kind::Gannet, 64),
        (Kind::Gannet, 1024),
        (Kind::NginxSlice, 0),
        (Kind::Varnish, 0),
    ];
    let heads = ["", "idle, MiB", "most, MiB", "beside the tier, MiB"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    let kinds = run.peers(&cases.map(|(kind, _)| kind));
    for (kind, tier) in cases.into_iter().filter(|(kind, _)| kinds.contains(kind)) {
        let origin = Origin::start();
        origin.put("bench", "object", Object::held(expected.clone()));
        origin.pace(Pace {
            bandwidth: Some(BANDWIDTH),
            ..Pace::default()
        });
        let peer = Peer::start(run, kind, &origin, tier);
        let idle = peer.process().resident();
        let mut most = idle;
        let url = format!("{}/bench/object", peer.url());
        let mut stampede = std::pin::pin!(load::stampede(&url, None, clients, &expected));
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        let outcome = loop {
            tokio::select! {
                outcome = &mut stampede => break outcome,
                _ = tick.tick() => most = most.max(peer.process().resident()),
            }
        };
        if outcome.wrong > 0 {
            section.wrong(format!("{}: {} clients", kind.name(), outcome.wrong));
        }
        // A tier cannot hold more of the object than there is.
        let held = (tier * mib).min(size);
        let beside = most.saturating_sub(if kind == Kind::Gannet { held } else { 0 }) / mib;
        let name = match kind {
            Kind::Gannet => format!("gannet, --memory-max {tier}MiB"),
            kind => kind.name().into(),
        };
        if kind == Kind::Gannet {
            section.target(
                &format!("{name}: beside the tier"),
                beside as f64,
                200.0,
                "MiB",
            );
        }
        rows.push(vec![
            name,
            number((idle / mib) as f64),
            number((most / mib) as f64),
            if kind == Kind::Gannet {
                number(beside as f64)
            } else {
                "-".into()
            },
        ]);
    }
    section.table(&format!("{clients} clients, {} MiB", size / mib), &rows);
    section
}
