//! The connections of a listener, each served beside the others.
//!
//! Also for servers on a node that speak something other than gRPC. Invariant: a connection that cannot be accepted delays those
//! after it, and ends none.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// Most likely we are out of descriptors: some are to be let go before the next try.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// `accept` is a listener's `poll_accept`. Serves until `stop`; what is under way then is cut.
pub async fn serve_each<S, A, F>(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(S, A)>>,
    stop: CancellationToken,
    serve: impl Fn(S) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    while let Some(accepted) = stop.run_until_cancelled(poll_fn(&mut accept)).await {
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(stop.clone().run_until_cancelled_owned(serve(stream)));
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_failed_does_not_keep_the_next_from_being_served() {
        let mut incoming = [Err(io::Error::other("no descriptors")), Ok((7, ()))].into_iter();
        let accept = move |_: &mut Context<'_>| incoming.next().map_or(Poll::Pending, Poll::Ready);
        let (sender, mut served) = mpsc::channel(1);
        let (stop, sender) = (CancellationToken::new(), std::sync::Arc::new(sender));
        let serve = move |stream| {
            let sender = sender.clone();
            async move {
                sender.send(stream).await.expect("it is waited for");
                std::future::pending().await
            }
        };
        let all = tokio::spawn(serve_each(accept, stop.clone(), serve));
        assert_eq!(served.recv().await, Some(7));
        stop.cancel();
        all.await.expect("it ends");
        assert_eq!(served.recv().await, None, "what was under way is cut");
    }
}
