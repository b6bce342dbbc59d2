//! The control thread: its runtime, its listening socket, and the patience with clients.

use super::state::{AdminState, Patience, Traffic};
use super::{status, users, xcap};
use crate::base::limits::DOCUMENT_LEN_MAX;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, put};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
use tracing::{debug, warn};

/// Ends [`run`] from any thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Asks the control thread to end: no new connections, requests under way are answered, then it returns.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    async fn stopped(self) {
        // The sender is ours: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}

/// Runs the control plane and its HTTP side on the calling thread, inside a tokio-uring runtime, until stopped.
///
/// The listener is bound by the caller, so that an address that cannot be had is reported before anything starts.
pub fn run(listener: std::net::TcpListener, state: AdminState, stop: Stop) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())?;
    runtime.block_on(async move {
        let gate = Gate::new(TcpListener::from_std(listener)?, &state);
        state.plane.start(state.mailbox.clone(), &state.signal);
        state.spool.clone().start();
        let serve = axum::serve(gate, router(state)).with_graceful_shutdown(stop.clone().stopped());
        let overdue = async {
            stop.stopped().await;
            tokio::time::sleep(STOP_TIME_MAX).await;
        };
        tokio::select! {
            served = serve => served,
            () = overdue => Ok(()),
        }
    })
}

/// Every path there is.
fn router(state: AdminState) -> Router {
    Router::new()
        .route("/healthz", get(status::health))
        .route("/metrics", get(status::metrics))
        .route("/admin/users/{aor}", get(users::user))
        .route("/admin/users/{aor}/devices", get(users::devices))
        .route("/admin/users/{aor}/deferred", get(users::deferred))
        .route("/admin/users/{aor}/messages", get(users::messages))
        .route("/admin/users/{aor}/messages/{id}", get(users::message))
        .route("/admin/users/{aor}/history", get(users::history))
        .route("/admin/users/{aor}/history/{id}", get(users::history_object))
        .route("/admin/users/{aor}/availability", put(users::set_availability).delete(users::clear_availability))
        // XCAP paths hold escapes that must be undone segment by segment, and any number of segments.
        .fallback(xcap::handle)
        .layer(DefaultBodyLimit::max(DOCUMENT_LEN_MAX))
        .with_state(Arc::new(state))
}

/// The listening socket, with a bound on open connections.
struct Gate {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    patience: Patience,
    traffic: Arc<Traffic>,
}

impl Gate {
    fn new(listener: TcpListener, state: &AdminState) -> Self {
        Self {
            listener,
            permits: Arc::new(Semaphore::new(state.patience.connection_count_max)),
            patience: state.patience,
            traffic: state.traffic.clone(),
        }
    }
}

impl axum::serve::Listener for Gate {
    type Io = Patient;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Patient, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => match self.permits.clone().try_acquire_owned() {
                    Ok(permit) => return (Patient::new(stream, permit, self.patience, self.traffic.clone()), peer),
                    Err(_) => {
                        self.traffic.refused.fetch_add(1, Ordering::Relaxed);
                        // A fresh socket takes this much; a peer that cannot is closed all the same.
                        let _ = stream.try_write(TOO_MANY);
                    }
                },
                Err(error) => {
                    warn!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection whose peer has to keep moving: a request that does not end, or a response that is not read, ends the
/// connection.
struct Patient {
    stream: TcpStream,
    in_request: bool,
    deadline: Pin<Box<Sleep>>,
    patience: Patience,
    traffic: Arc<Traffic>,
    _permit: OwnedSemaphorePermit,
}

impl Patient {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, patience: Patience, traffic: Arc<Traffic>) -> Self {
        // Answers are written whole: waiting for more of them only delays the last segment.
        let _ = stream.set_nodelay(true);
        traffic.open.fetch_add(1, Ordering::Relaxed);
        let deadline = Box::pin(tokio::time::sleep(patience.idle));
        Self { stream, in_request: false, deadline, patience, traffic, _permit: permit }
    }

    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.deadline.as_mut().poll(context));
        self.traffic.slow.fetch_add(1, Ordering::Relaxed);
        debug!("an HTTP client took too long");
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    fn moved(&mut self, in_request: bool) {
        self.in_request = in_request;
        let time = if in_request { self.patience.request } else { self.patience.idle };
        self.deadline.set(tokio::time::sleep(time));
    }

    fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match write(Pin::new(&mut self.stream), context) {
            Poll::Ready(written) => {
                self.moved(false);
                Poll::Ready(written)
            }
            Poll::Pending => self.poll_overdue(context).map(Err),
        }
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        self.traffic.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                if buffer.filled().len() > before && !self.in_request {
                    self.moved(true);
                } else if let Poll::Ready(overdue) = self.poll_overdue(context) {
                    // A trickle is no progress: the limit is on the request, not on the time between two bytes.
                    return Poll::Ready(Err(overdue));
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_overdue(context).map(Err),
        }
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Longest wait for requests under way when stopped.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);
/// Pause after a failed accept: a table is full somewhere, and asking at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
