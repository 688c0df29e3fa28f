//! Calls of one step that need not wait for each other, side by side within bounds.

use futures::stream::{FuturesUnordered, StreamExt};
use std::future::Future;

/// Calls under way at once. S3 takes thousands a second under a prefix; beyond this the network is what limits.
pub(crate) const CALLS_MAX: usize = 16;
/// What the files of those calls hold in memory together, in bytes. A file that is larger goes alone.
pub(crate) const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Makes `call` for each of `items`, which come with the bytes that each holds in memory; the results are in their order.
///
/// The first error ends it: what is under way then is waited for, so that no call outlives this one, and nothing more is
/// begun.
///
/// # Errors
/// The first of a call.
pub(crate) async fn side_by_side<T, R, E, F>(
    items: impl IntoIterator<Item = (T, u64)>,
    call: impl Fn(T) -> F,
) -> Result<Vec<R>, E>
where
    F: Future<Output = Result<R, E>>,
{
    side_by_side_with(items, call, async || Ok(())).await
}

/// As [`side_by_side`], with `between` after every answer, while nothing new is begun.
///
/// # Errors
/// The first of a call or of `between`.
pub(crate) async fn side_by_side_with<T, R, E, F>(
    items: impl IntoIterator<Item = (T, u64)>,
    call: impl Fn(T) -> F,
    mut between: impl AsyncFnMut() -> Result<(), E>,
) -> Result<Vec<R>, E>
where
    F: Future<Output = Result<R, E>>,
{
    let (mut waiting, mut under_way) = (items.into_iter().enumerate().peekable(), FuturesUnordered::new());
    let (mut held, mut outcome) = (0, Ok(Vec::new()));
    loop {
        let calls = under_way.len();
        let fits = |bytes: u64| calls == 0 || (calls < CALLS_MAX && held + bytes <= BYTES_MAX);
        if outcome.is_ok()
            && let Some((at, (item, bytes))) = waiting.next_if(|(_, (_, bytes))| fits(*bytes))
        {
            held += bytes;
            let answer = call(item);
            under_way.push(async move { (at, bytes, answer.await) });
            continue;
        }
        let Some((at, bytes, answer)) = under_way.next().await else { break };
        held -= bytes;
        match (answer, &mut outcome) {
            (Ok(result), Ok(results)) => results.push((at, result)),
            (Err(error), Ok(_)) => outcome = Err(error),
            (_, Err(_)) => continue,
        }
        if outcome.is_ok()
            && let Err(error) = between().await
        {
            outcome = Err(error);
        }
    }
    outcome.map(|mut results| {
        results.sort_unstable_by_key(|(at, _)| *at);
        results.into_iter().map(|(_, result)| result).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::convert::Infallible;
    use std::task::{Context, Poll, Waker};
    use tokio::sync::oneshot;

    /// What answers a call on an item.
    type Tell = oneshot::Sender<Result<usize, usize>>;

    /// Calls that wait for the test.
    #[derive(Default)]
    struct Calls {
        open: RefCell<Vec<(usize, Tell)>>,
        begun: Cell<usize>,
    }

    impl Calls {
        fn begin(&self, item: usize) -> impl Future<Output = Result<usize, usize>> + use<> {
            let (tell, told) = oneshot::channel();
            self.open.borrow_mut().push((item, tell));
            self.begun.set(self.begun.get() + 1);
            async { told.await.unwrap() }
        }

        fn open(&self) -> Vec<usize> {
            self.open.borrow().iter().map(|(item, _)| *item).collect()
        }

        fn end(&self, at: usize, fails: bool) {
            let (item, tell) = self.open.borrow_mut().remove(at);
            tell.send(if fails { Err(item) } else { Ok(item) }).unwrap();
        }
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn as_many_as_may_be_are_under_way_and_results_keep_their_order() {
        let calls = Calls::default();
        let all = CALLS_MAX + 3;
        let mut run = Box::pin(side_by_side((0..all).map(|n| (n, 1)), |n| calls.begin(n)));
        let mut done = poll(run.as_mut());
        for ended in 0..all {
            assert!(done.is_pending());
            assert_eq!(calls.open().len(), CALLS_MAX.min(all - ended));
            calls.end(calls.open().len() - 1, false);
            done = poll(run.as_mut());
        }
        assert_eq!(done, Poll::Ready(Ok((0..all).collect())));
    }

    #[test]
    fn what_does_not_fit_waits_and_a_large_one_goes_alone() {
        let calls = Calls::default();
        let sizes = [BYTES_MAX / 2, BYTES_MAX / 2, 1, BYTES_MAX + 1, 1];
        let mut run = Box::pin(side_by_side((0..5).zip(sizes), |n| calls.begin(n)));
        for open in [[0, 1].as_slice(), &[1, 2], &[2], &[3], &[4]] {
            assert!(poll(run.as_mut()).is_pending());
            assert_eq!(calls.open(), open);
            calls.end(0, false);
        }
        assert_eq!(poll(run.as_mut()), Poll::Ready(Ok(vec![0, 1, 2, 3, 4])));
    }

    #[test]
    fn after_an_error_what_is_under_way_ends_and_nothing_more_begins() {
        let between_fails = Cell::new(false);
        for fails in [true, false] {
            let calls = Calls::default();
            let between = async || if between_fails.get() { Err(99) } else { Ok(()) };
            let mut run = Box::pin(side_by_side_with((0..100).map(|n| (n, 0)), |n| calls.begin(n), between));
            assert!(poll(run.as_mut()).is_pending());
            between_fails.set(!fails);
            calls.end(3, fails);
            while poll(run.as_mut()).is_pending() {
                assert_eq!(calls.begun.get(), CALLS_MAX);
                calls.end(0, true);
            }
            assert!(calls.open().is_empty());
            between_fails.set(false);
        }
    }

    #[test]
    fn nothing_to_do_is_done() {
        let none = std::iter::empty::<(usize, u64)>();
        let mut run = Box::pin(side_by_side(none, async |n| Ok::<_, Infallible>(n)));
        assert_eq!(poll(run.as_mut()), Poll::Ready(Ok(vec![])));
    }
}
