//! [`Wire`]: a connection on which what is asked at the same time travels together.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::oneshot;

/// A connection. The client library writes each command of its own with a system call, and Tokio wakes it at once after
/// each: of commands that many tasks ask at the same time, a batch is one.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) connection: MultiplexedConnection,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Commands that were asked and are not answered.
    open: AtomicUsize,
    /// What the next batch takes along.
    waiting: Mutex<Vec<Asked>>,
}

/// A command, and who waits for its answer.
type Asked = (Cmd, oneshot::Sender<RedisResult<Value>>);

impl Wire {
    pub(super) fn new(connection: MultiplexedConnection) -> Self {
        Self { connection, shared: Arc::default() }
    }

    /// The answer to a command: at once where no other is under way, else along with what the tasks that are ready by
    /// now ask.
    pub(super) async fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        let _open = Open(&self.shared.open);
        if self.shared.open.fetch_add(1, Ordering::Relaxed) == 0 {
            return command.query_async(&mut self.connection).await;
        }
        let (to, answer) = oneshot::channel();
        let is_first = {
            let mut waiting = self.shared.waiting();
            waiting.push((command.clone(), to));
            waiting.len() == 1
        };
        if is_first {
            tokio::spawn(Batch(Some(self.shared.clone())).send(self.connection.clone()));
        }
        answer.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::BrokenPipe).into()))
    }
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Asked>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command under way.
struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A batch to come: the commands that wait when its turn comes.
struct Batch(Option<Arc<Shared>>);

impl Batch {
    fn take(&mut self) -> Vec<Asked> {
        self.0.take().map(|shared| std::mem::take(&mut *shared.waiting())).unwrap_or_default()
    }

    async fn send(mut self, mut connection: MultiplexedConnection) {
        tokio::task::yield_now().await;
        let mut pipeline = Pipeline::new();
        // Who has given up meanwhile asks no more.
        let asked = self.take().into_iter().filter(|(_, to)| !to.is_closed());
        let asked: Vec<_> = asked.map(|(command, to)| (pipeline.add_command(command), to).1).collect();
        if asked.is_empty() {
            return;
        }
        match connection.send_packed_commands(&pipeline, 0, asked.len()).await {
            Ok(answers) => {
                asked.into_iter().zip(answers).for_each(|(to, answer)| drop(to.send(answer.extract_error())));
            }
            Err(error) => asked.into_iter().for_each(|to| drop(to.send(Err(error.clone())))),
        }
    }
}

impl Drop for Batch {
    /// Its runtime has gone before its turn came: nobody waits in vain, and the next command starts another.
    fn drop(&mut self) {
        drop(self.take());
    }
}
