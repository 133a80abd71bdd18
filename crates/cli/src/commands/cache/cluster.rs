//! From settings to a member of a cluster.

use crate::{
    exit::{Error, Result},
    settings::Settings,
};
use gannet_cache::{ClusterConfig, CredentialFiles, Discovery, MembersFrom, TlsFiles};
use std::num::{NonZeroU16, NonZeroU32};

/// The cluster that these settings describe; none where they describe none. They have been checked
/// against each other.
pub(super) fn config(settings: &Settings) -> Result<Option<ClusterConfig>> {
    let Some(listen) = settings.internal_listen.value else {
        return Ok(None);
    };
    let members = members(settings)?;
    let own_weight = u16::try_from(settings.weight.value)
        .ok()
        .and_then(NonZeroU16::new);
    let advertise = settings.advertise.value.clone();
    // A list says of each member what it weighs, this one included.
    let name = advertise.clone().unwrap_or_else(|| listen.to_string());
    let listed = match &members {
        MembersFrom::Fixed(members) => members.iter().find(|member| member.address() == name),
        _ => None,
    };
    Ok(Some(ClusterConfig {
        listen,
        advertise,
        weight: listed
            .map(gannet_cache::Member::weight)
            .or(own_weight)
            .unwrap_or(NonZeroU16::MIN),
        members,
        credentials: credentials(settings),
        sends_max: settings.sends_max.value.and_then(NonZeroU32::new),
    }))
}

fn members(settings: &Settings) -> Result<MembersFrom> {
    if let Some(name) = &settings.peers_dns.value {
        let name = name
            .parse()
            .map_err(|error| Error::usage(error).context("--peers-dns"))?;
        return Ok(MembersFrom::Dns {
            name,
            server: settings.peers_dns_server.value,
        });
    }
    if let Some(listen) = settings.gossip_listen.value {
        return Ok(MembersFrom::Gossip {
            listen,
            advertise: None,
            seeds: settings.gossip_seed.value.clone(),
        });
    }
    let peers = settings.peers.value.join(",");
    let members =
        Discovery::parse_peers(&peers).map_err(|error| Error::usage(error).context("--peers"))?;
    Ok(MembersFrom::Fixed(members))
}

fn credentials(settings: &Settings) -> CredentialFiles {
    let tls = (
        &settings.cluster_ca.value,
        &settings.cluster_cert.value,
        &settings.cluster_key.value,
        &settings.cluster_san.value,
    );
    match (&settings.cluster_secret.value, tls) {
        (Some(secret), _) => CredentialFiles::Secret(secret.clone()),
        (None, (Some(ca), Some(cert), Some(key), Some(san))) => CredentialFiles::Tls(TlsFiles {
            ca: ca.clone(),
            cert: cert.clone(),
            key: key.clone(),
            san: san.clone(),
        }),
        _ => CredentialFiles::None,
    }
}
