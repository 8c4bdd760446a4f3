//! Hints that a key changed, over a pub/sub connection of their own that is opened when somebody first waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{MutexGuard, watch};
use tokio::time::timeout;

use super::errors;
use super::options::RedisAddress;
use super::route::Route;
use crate::error::StoreError;
use crate::stores::shared_work::SharedWork;

pub(super) struct Hints {
    route: Arc<Route>,
    time_limit: Duration,
    sink: Arc<Place>,
    opening: SharedWork,
    channels: Arc<Channels>,
}

type Place = tokio::sync::Mutex<Option<Sink>>;

/// The connection, and whose it is.
struct Sink {
    at: RedisAddress,
    sink: PubSubSink,
}

/// Who waits for which channel. Emptied when the connection ends, which closes every receiver.
type Channels = Mutex<HashMap<Vec<u8>, watch::Sender<()>>>;

fn locked(channels: &Channels) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, watch::Sender<()>>> {
    channels.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hints {
    pub(super) fn new(route: Arc<Route>, time_limit: Duration) -> Self {
        let (sink, opening, channels) = Default::default();
        Self { route, time_limit, sink, opening, channels }
    }

    /// Subscribes. `None` where that fails: hints are a help, not a need.
    pub(super) async fn watch(&self, channel: Vec<u8>) -> Option<watch::Receiver<()>> {
        match timeout(self.time_limit, self.subscribe(channel)).await {
            Ok(Ok(receiver)) => Some(receiver),
            Ok(Err(error)) => {
                tracing::debug!("no hints from the Redis server, waiting by polling: {error}");
                None
            }
            Err(_) => {
                // A connection that does not answer is not asked again.
                if let Ok(mut sink) = self.sink.try_lock() {
                    *sink = None;
                }
                None
            }
        }
    }

    async fn subscribe(&self, channel: Vec<u8>) -> Result<watch::Receiver<()>, StoreError> {
        for fresh in [false, true] {
            let mut sink = self.connected().await?;
            self.unsubscribe_the_deserted(&mut sink).await;
            let receiver =
                locked(&self.channels).entry(channel.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
            match sink.as_mut().expect("opened above").sink.subscribe(&channel).await {
                Ok(()) => return Ok(receiver),
                Err(source) if fresh => return Err(errors::error(source, "").error),
                Err(_) => *sink = None, // the old connection was lost: once more on a new one
            }
        }
        unreachable!("the second turn returns")
    }

    /// The connection, to where messages are published now: a server that was the primary may still answer, and hears
    /// nothing any more.
    async fn connected(&self) -> Result<MutexGuard<'_, Option<Sink>>, StoreError> {
        loop {
            let sink = self.sink.lock().await;
            let before = sink.as_ref().map(|sink| &sink.at);
            let at = self.route.published(before).await?;
            if before == Some(&at) {
                return Ok(sink);
            }
            drop(sink);
            let (route, channels, place) = (self.route.clone(), self.channels.clone(), self.sink.clone());
            let open = async move {
                let (sink, stream) = route.dial().listen(&at).await?.split();
                tokio::spawn(listen(stream, channels));
                *place.lock().await = Some(Sink { at, sink });
                Ok(())
            };
            self.opening.join(|| open).await?;
        }
    }

    async fn unsubscribe_the_deserted(&self, sink: &mut Option<Sink>) {
        let Some(sink) = sink else { return };
        let deserted: Vec<_> =
            locked(&self.channels).extract_if(|_, sender| sender.receiver_count() == 0).map(|(name, _)| name).collect();
        if !deserted.is_empty() {
            let _ = sink.sink.unsubscribe(&deserted[..]).await; // a lost connection has none left
        }
    }
}

async fn listen(mut stream: PubSubStream, channels: Arc<Channels>) {
    while let Some(message) = stream.next().await {
        if let Some(sender) = locked(&channels).get(message.get_channel_name().as_bytes()) {
            sender.send_replace(());
        }
    }
    locked(&channels).clear();
}
