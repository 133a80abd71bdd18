//! A member of a cluster from its start to its end: the internal listener, the watch over members,
//! and credentials that are read again when they change.

use super::{Cluster, serve};
use crate::{
    config::{CacheError, ClusterConfig, MembersFrom},
    core::ReadPath,
    edge,
};
use gannet_cluster::Member;
use gannet_link::{Credentials, Drained, Links, LinksConfig, ServerLimits};
use gannet_members::{Discovery, Family, Watching};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};

/// From one look at a name service to the next.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// From one look at the credentials' files to the next.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// What gossip calls a cluster of caches: those of other programs are not listened to.
const GOSSIP: &str = "gannet-cache";

/// A member before it serves: its address is taken, and who it is is known.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) cluster: Arc<Cluster>,
    listener: TcpListener,
    address: SocketAddr,
    credentials: Arc<Credentials>,
    members: MembersFrom,
}

impl Joining {
    /// Takes the address and reads the credentials.
    ///
    /// # Errors
    /// An address in use, or open to others without credentials; credentials that cannot be used; no
    /// address under which others could reach this member.
    pub(crate) fn new(config: &ClusterConfig, hedge_after: Duration) -> Result<Self, CacheError> {
        let credentials = Arc::new(Credentials::open(config.credentials.clone())?);
        if !config.listen.ip().to_canonical().is_loopback() && !credentials.may_leave_loopback() {
            return Err(CacheError::Config(format!(
                "internal listener on {}, which others can reach, without credentials: give the \
                 members certificates (--cluster-ca, --cluster-cert, --cluster-key, --cluster-san) or \
                 a secret (--cluster-secret), or listen on loopback",
                config.listen
            )));
        }
        let failed = |error| CacheError::Listen {
            what: "internal",
            address: config.listen,
            error,
        };
        let listener = edge::bind(config.listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let name = match &config.advertise {
            Some(advertise) => advertise.clone(),
            None if address.ip().is_unspecified() => {
                return Err(CacheError::Config(format!(
                    "internal listener on {address}, which is no address that others could reach: \
                     name one with --advertise"
                )));
            }
            None => address.to_string(),
        };
        let me = Discovery::parse_peers(&name)
            .ok()
            .filter(|members| members.len() == 1)
            .and_then(|members| Some(Member::weighted(members.first()?.address(), config.weight)))
            .ok_or_else(|| {
                CacheError::Config(format!(
                    "--advertise {name}: not an address (IP:PORT or HOST:PORT)"
                ))
            })?;
        let links = Links::new(Arc::clone(&credentials), LinksConfig::default());
        let cluster = Cluster::new(
            me,
            config.sends_max,
            hedge_after,
            Arc::clone(&credentials),
            links,
        );
        Ok(Self {
            cluster: Arc::new(cluster),
            listener,
            address,
            credentials,
            members: config.members.clone(),
        })
    }

    /// Serves, and looks for the others.
    ///
    /// # Errors
    /// If there is no way to look.
    pub(crate) async fn join(
        self,
        path: &ReadPath,
        drain_max: Duration,
    ) -> Result<Node, CacheError> {
        let (stop, stopped) = oneshot::channel::<()>();
        let limits = ServerLimits {
            drain_max,
            ..ServerLimits::default()
        };
        let cluster = Arc::clone(&self.cluster);
        let handler = {
            let (path, cluster) = (path.clone(), Arc::clone(&cluster));
            move |peer, request| serve(path.clone(), Arc::clone(&cluster), peer, request)
        };
        let serving = tokio::spawn(gannet_link::serve(
            self.listener,
            Arc::clone(&self.credentials),
            limits,
            Arc::clone(&cluster.server),
            handler,
            async move {
                // A sender that is gone means the same.
                let _ = stopped.await;
            },
        ));
        let me = cluster.me().clone();
        let discovery = match self.members {
            MembersFrom::Fixed(members) => Discovery::Fixed(members),
            MembersFrom::Dns { name, server } => Discovery::Dns {
                name,
                server,
                every: LOOK_EVERY,
                port: port(&me).unwrap_or_else(|| self.address.port()),
                family: Family::of(&me),
            },
            MembersFrom::Gossip {
                listen,
                advertise,
                seeds,
            } => Discovery::Gossip {
                listen,
                advertise: advertise.unwrap_or(listen),
                seeds,
                me,
                cluster: GOSSIP.to_owned(),
                key: match &*self.credentials {
                    Credentials::Secret(_) => Some(self.credentials.binding()),
                    _ => None,
                },
            },
        };
        let looked = path.clone();
        let watching = gannet_members::watch(discovery, move |found| looked.looked(found)).await?;
        let refreshing = tokio::spawn(refresh(self.credentials)).abort_handle();
        tracing::info!(address = %self.address, me = ?cluster.me(), "a member of a cluster");
        Ok(Node {
            address: self.address,
            stop: Some(stop),
            serving,
            watching: Some(watching),
            refreshing,
        })
    }
}

fn port(member: &Member) -> Option<u16> {
    member.address().rsplit_once(':')?.1.parse().ok()
}

/// Reads credentials again when their files change.
async fn refresh(credentials: Arc<Credentials>) {
    loop {
        tokio::time::sleep(REFRESH_EVERY).await;
        let credentials = Arc::clone(&credentials);
        match tokio::task::spawn_blocking(move || credentials.refresh()).await {
            Ok(Ok(true)) => tracing::info!("the cluster's credentials have changed"),
            Ok(Err(error)) => {
                tracing::error!(%error, "the cluster's new credentials cannot be used");
            }
            _ => {}
        }
    }
}

/// A member that serves. Dropping it ends it at once.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Drained>,
    watching: Option<Watching>,
    refreshing: AbortHandle,
}

impl Node {
    /// Takes leave of the others, so that they need not find out.
    pub(crate) async fn leave(&mut self) {
        if let Some(watching) = self.watching.take() {
            watching.leave().await;
        }
    }

    /// Lets other members' questions under way be answered, and ends.
    pub(crate) async fn shutdown(mut self) {
        if let Some(stop) = self.stop.take() {
            // Nobody listens only if serving has ended already.
            let _ = stop.send(());
        }
        if let Ok(drained) = (&mut self.serving).await {
            tracing::debug!(cut = drained.cut, "the internal listener has ended");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
        self.refreshing.abort();
    }
}
