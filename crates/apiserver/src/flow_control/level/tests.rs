//! A level under requests that come, wait, give up and go.

use super::*;

const PATIENT: Duration = Duration::from_secs(3600);

fn level(shape: Shape, limit: usize) -> Arc<Level> {
    let level = Level::new("test");
    level.configure(shape, limit);
    level
}

fn queueing(limit: usize, length: usize) -> Arc<Level> {
    level(Shape::Queue { queues: 8, hand: 2, length }, limit)
}

fn counts() -> Arc<FlowCounts> {
    FlowCounts::new("schema", "test")
}

fn asked<'a>(counts: &'a Arc<FlowCounts>, distinguisher: &'a str, patience: Duration) -> Asked<'a> {
    Asked { counts, distinguisher, seats: 1, patience }
}

#[tokio::test]
async fn a_seat_comes_back_when_its_ticket_is_dropped() {
    let (level, counts) = (level(Shape::Reject, 1), counts());
    let first = level.enter(asked(&counts, "a", PATIENT)).await;
    let second = level.enter(asked(&counts, "a", PATIENT)).await;
    assert!(matches!(second, Err(Rejection::ConcurrencyLimit)));
    drop(first);
    assert!(level.enter(asked(&counts, "a", PATIENT)).await.is_ok());
    assert_eq!(level.picture().in_use, 0);
}

#[tokio::test]
async fn an_exempt_level_has_no_limit() {
    let (level, counts) = (level(Shape::Exempt, 0), counts());
    let all: Vec<_> =
        (0..100).filter_map(|_| level.try_enter(&asked(&counts, "", PATIENT))).collect();
    assert_eq!((all.len(), level.picture().executing), (100, 100));
}

#[tokio::test]
async fn who_waits_is_served_when_a_seat_is_free() {
    let (level, counts) = (queueing(1, 50), counts());
    let first = level.enter(asked(&counts, "a", PATIENT)).await.expect("a seat");
    let second = level.enter(asked(&counts, "a", PATIENT));
    let mut second = std::pin::pin!(second);
    assert!(futures::poll!(second.as_mut()).is_pending());
    assert_eq!(level.picture().waiting, 1);
    drop(first);
    assert!(second.await.is_ok());
    assert_eq!((level.picture().waiting, level.picture().in_use), (0, 0));
}

#[tokio::test]
async fn a_full_queue_rejects() {
    let (level, counts) = (queueing(1, 1), counts());
    let _first = level.enter(asked(&counts, "a", PATIENT)).await;
    // A flow has two queues of one place each.
    let mut places: Vec<_> =
        (0..2).map(|_| Box::pin(level.enter(asked(&counts, "a", PATIENT)))).collect();
    for place in &mut places {
        assert!(futures::poll!(place.as_mut()).is_pending());
    }
    let third = level.enter(asked(&counts, "a", PATIENT)).await;
    assert!(matches!(third, Err(Rejection::QueueFull)));
}

#[tokio::test]
async fn patience_ends_and_leaves_no_waiter_behind() {
    let (level, counts) = (queueing(1, 50), counts());
    let _first = level.enter(asked(&counts, "a", PATIENT)).await;
    let second = level.enter(asked(&counts, "a", Duration::ZERO)).await;
    assert!(matches!(second, Err(Rejection::TimeOut)));
    assert_eq!((level.picture().waiting, counts.waiting.load(Relaxed)), (0, 0));
}

#[tokio::test]
async fn a_client_that_goes_away_gives_up_its_place() {
    let (level, counts) = (queueing(1, 50), counts());
    let first = level.enter(asked(&counts, "a", PATIENT)).await;
    {
        let mut gone = std::pin::pin!(level.enter(asked(&counts, "a", PATIENT)));
        assert!(futures::poll!(gone.as_mut()).is_pending());
    }
    assert_eq!(level.picture().waiting, 0);
    drop(first);
    assert_eq!(level.picture().in_use, 0);
}

#[tokio::test]
async fn a_flood_does_not_starve_another_flow() {
    let (level, counts) = (queueing(1, 1000), counts());
    let first = level.enter(asked(&counts, "flood", PATIENT)).await;
    let mut flood: Vec<_> =
        (0..100).map(|_| Box::pin(level.enter(asked(&counts, "flood", PATIENT)))).collect();
    for waiting in &mut flood {
        assert!(futures::poll!(waiting.as_mut()).is_pending());
    }
    let mut quiet = Box::pin(level.enter(asked(&counts, "quiet", PATIENT)));
    assert!(futures::poll!(quiet.as_mut()).is_pending());
    drop(first);
    let mut served = 0;
    // Finished requests free their seat at once; the quiet flow has its turn after a few of the flood's.
    while futures::poll!(quiet.as_mut()).is_pending() {
        served += 1;
        assert!(served < 5, "the quiet flow waits for the flood");
        for waiting in &mut flood {
            if futures::poll!(waiting.as_mut()).is_ready() {
                *waiting = Box::pin(level.enter(asked(&counts, "flood", PATIENT)));
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_request_wider_than_its_level_runs_alone() {
    let (level, counts) = (queueing(2, 50), counts());
    let wide = Asked { seats: 10, ..asked(&counts, "a", PATIENT) };
    let ticket = level.enter(wide).await.expect("alone is fine");
    assert!(level.try_enter(&asked(&counts, "a", PATIENT)).is_none());
    drop(ticket);
}
