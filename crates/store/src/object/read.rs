//! A blob in an object store that has been opened: reads are ranged, and verified block by block.

use super::{Shared, failed};
use crate::{
    BlobSource, BlobStream, Place, StoreError,
    frame::{BLOCK, FIXED, Frame, framed_len, table_len},
};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{Error, GetOptions, GetRange, path::Path};
use std::{ops::Range, sync::Arc};

/// Most bytes that are given at once.
const PIECE: usize = 8 * BLOCK as usize;

/// An open blob.
#[derive(Debug)]
pub(super) struct RemoteBlob {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Place,
    pub(super) path: Path,
    pub(super) frame: Frame,
    /// Its first blocks, verified.
    pub(super) head: Bytes,
}

/// A read under way.
struct Reader {
    blob: Arc<RemoteBlob>,
    /// What is still to be given.
    range: Range<u64>,
    body: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    /// What has come and is not verified yet, from `blocks.start` on.
    buffer: BytesMut,
    /// Whole blocks that cover `range`, as far as they are not verified yet.
    blocks: Range<u64>,
}

impl BlobSource for RemoteBlob {
    fn len(&self) -> u64 {
        self.frame.len
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        let reader = Reader {
            blob: self,
            range,
            body: None,
            buffer: BytesMut::new(),
            blocks: 0..0,
        };
        Box::pin(stream::try_unfold(reader, async |mut reader| {
            Ok(reader.next().await?.map(|piece| (piece, reader)))
        }))
    }

    fn condemn(&self, what: &str) {
        // Without a runtime there is nobody to delete it, and nobody to read it either.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (shared, place, path) = (self.shared.clone(), self.place.clone(), self.path.clone());
        let what = what.to_owned();
        runtime.spawn(async move { shared.condemn(&place, &path, &what).await });
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let blob = self.blob.clone();
        if self.range.is_empty() {
            return Ok(None);
        }
        let head = blob.head.len() as u64;
        if self.range.start < head {
            let end = self.range.end.min(head);
            let piece = blob.head.slice(self.range.start as usize..end as usize);
            self.range.start = end;
            return Ok(Some(piece));
        }
        if self.body.is_none() {
            self.blocks = blob.frame.aligned(&self.range);
            self.body = Some(blob.get(&self.blocks).await?);
        }
        let left = usize::try_from(self.blocks.end - self.blocks.start).unwrap_or(usize::MAX);
        let wanted = left.min(BLOCK as usize);
        while self.buffer.len() < wanted {
            let more = match &mut self.body {
                Some(body) => body.next().await,
                None => None,
            };
            match more {
                Some(Ok(more)) => self.buffer.extend_from_slice(&more),
                Some(Err(error)) => return Err(failed("read on", error)),
                None => return Err(StoreError::Transient("the answer ended early".into())),
            }
        }
        if self.buffer.len() > left {
            return Err(StoreError::Transient(
                "the answer is longer than what was asked".into(),
            ));
        }
        let whole = match self.buffer.len() {
            all if all == left => all.min(PIECE.max(wanted)),
            some => (some / BLOCK as usize * BLOCK as usize).min(PIECE),
        };
        let mut piece = self.buffer.split_to(whole).freeze();
        if !blob.frame.verify(self.blocks.start / BLOCK, &piece) {
            let what = format!("a block from byte {} on", self.blocks.start);
            blob.shared.condemn(&blob.place, &blob.path, &what).await;
            return Err(StoreError::Corrupt {
                place: blob.place.clone(),
                what: what.into(),
            });
        }
        let from = self.blocks.start;
        self.blocks.start += whole as u64;
        // Cut what the alignment added at either end.
        piece.advance((self.range.start - from) as usize);
        piece.truncate(usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX));
        self.range.start += piece.len() as u64;
        Ok(Some(piece))
    }
}

impl RemoteBlob {
    /// Asks for whole blocks.
    async fn get(
        &self,
        blocks: &Range<u64>,
    ) -> Result<BoxStream<'static, object_store::Result<Bytes>>, StoreError> {
        let data = FIXED as u64 + table_len(self.frame.len);
        let range = GetRange::Bounded(data + blocks.start..data + blocks.end);
        let options = GetOptions {
            range: Some(range),
            ..GetOptions::default()
        };
        match self.shared.store.get_opts(&self.path, options).await {
            Ok(get) if get.meta.size != framed_len(self.frame.len) => {
                self.shared
                    .condemn(&self.place, &self.path, "its length")
                    .await;
                let what = "its length".into();
                Err(StoreError::Corrupt {
                    place: self.place.clone(),
                    what,
                })
            }
            Ok(get) => Ok(get.into_stream()),
            Err(Error::NotFound { .. }) => Err(StoreError::Gone(self.place.clone())),
            Err(error) => Err(failed("read", error)),
        }
    }
}
