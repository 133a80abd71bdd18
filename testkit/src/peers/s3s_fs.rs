//! s3s-fs: an S3 server on a directory, run in this process. Ignores `If-Match` on GET (version 0.14.1).

use super::{s3_bucket, s3_put};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use std::{net::Ipv4Addr, path::Path, thread::JoinHandle};
use tokio::{net::TcpListener, runtime, sync::oneshot, task::JoinSet};

/// A running s3s-fs, on a thread and a runtime of its own.
#[derive(Debug)]
pub struct S3sFs {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl S3sFs {
    /// Serves a directory, whose sub-directories are buckets. Without keys it takes unsigned requests
    /// only; with an access and a secret key, signed ones only.
    pub fn start(root: &Path, keys: Option<(&str, &str)>) -> Self {
        let files = s3s_fs::FileSystem::new(root)
            .unwrap_or_else(|error| panic!("s3s-fs cannot serve {}: {error:?}", root.display()));
        let mut builder = S3ServiceBuilder::new(files);
        if let Some((access_key, secret_key)) = keys {
            builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        }
        let service = builder.build();
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let serve = async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .expect("a free port");
            let addr = listener.local_addr().expect("a listener has an address");
            ready.send(addr).expect("the starter waits");
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => stream,
                        // A peer that has gone already.
                        Err(_) => continue,
                    },
                    _ = &mut stopped => return,
                };
                while connections.try_join_next().is_some() {}
                let service = service.clone();
                connections.spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    // How a connection ended is the client's affair.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        };
        let thread = std::thread::Builder::new()
            .name("s3s-fs".into())
            .spawn(move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime can be made").block_on(serve);
            })
            .expect("a thread can be made");
        let addr = is_ready.recv().expect("s3s-fs starts");
        Self {
            url: format!("http://{addr}"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a bucket, where no keys are asked for.
    pub async fn bucket(&self, bucket: &str) {
        s3_bucket(&self.url, bucket, &[]).await;
    }

    /// Puts an object with these headers, where no keys are asked for.
    pub async fn put(&self, bucket: &str, key: &str, headers: &[(&str, &str)], body: &[u8]) {
        s3_put(&self.url, bucket, key, headers, &[], body).await;
    }
}

impl Drop for S3sFs {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message is out already.
            let _ = thread.join();
        }
    }
}
