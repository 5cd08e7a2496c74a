//! One priority level: the seats it has, who sits on them, and who waits for one.
//!
//! A request asks for seats -> a [`Ticket`] at once, after waiting its turn, or a [`Rejection`]. Waiting requests stand in
//! queues; the queue with the least virtual time goes next (start-time fair queueing: a queue's virtual time grows with
//! the work it was given). Counterpart: `fairqueuing/queueset`, which instead integrates a clock over all seats.
//! Invariant: every seat that is taken comes back when its ticket is dropped, however its request ends.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::counts::{FlowCounts, Rejection};
use super::dealer;

pub struct Level {
    pub name: String,
    state: Mutex<State>,
}

/// What a level does with a request that finds no seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// It is served all the same.
    Exempt,
    #[default]
    Reject,
    Queue {
        queues: usize,
        hand: usize,
        length: usize,
    },
}

/// Seats taken by one request, until dropped.
pub struct Ticket {
    level: Arc<Level>,
    counts: Arc<FlowCounts>,
    seats: usize,
    queue: Option<usize>,
    since: Instant,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("level", &self.level.name).finish_non_exhaustive()
    }
}

/// Who asks, for how much.
pub struct Asked<'a> {
    pub counts: &'a Arc<FlowCounts>,
    /// Names the flow among those of its schema.
    pub distinguisher: &'a str,
    pub seats: usize,
    /// How long it may wait.
    pub patience: Duration,
}

#[derive(Default)]
struct State {
    shape: Shape,
    limit: usize,
    in_use: usize,
    executing: usize,
    waiting: usize,
    waiting_seats: usize,
    /// The most seats used and waited for since this was last asked.
    high: usize,
    queues: Vec<Queue>,
    /// The virtual time of the queue that went last.
    now: f64,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    time: f64,
    in_use: usize,
    executing: usize,
}

struct Waiter {
    seats: usize,
    since: Instant,
    distinguisher: String,
    counts: Arc<FlowCounts>,
    turn: oneshot::Sender<Ticket>,
}

/// Removes its waiter from the queue when the request goes away.
struct Place<'a> {
    level: &'a Arc<Level>,
    queue: usize,
    turn: oneshot::Receiver<Ticket>,
}

/// Tickets and whom to hand them, once the state is no longer locked.
type Turns = Vec<(oneshot::Sender<Ticket>, Ticket)>;

/// A level as the dumps show it.
pub struct LevelPicture {
    pub name: String,
    pub exempt: bool,
    pub limit: usize,
    pub in_use: usize,
    pub executing: usize,
    pub waiting: usize,
    pub waiting_seats: usize,
    pub queues: Vec<QueuePicture>,
}

pub struct QueuePicture {
    pub executing: usize,
    pub in_use: usize,
    pub time: f64,
    pub waiting: Vec<WaiterPicture>,
}

pub struct WaiterPicture {
    pub schema: String,
    pub distinguisher: String,
    pub seats: usize,
    pub waited: Duration,
}

// === impl Level ===

impl Level {
    pub fn new(name: &str) -> Arc<Level> {
        Arc::new(Level { name: name.to_owned(), state: Mutex::default() })
    }

    /// Takes on a new shape and limit. Requests that wait keep their place, even in a queue that is no longer dealt.
    pub fn configure(self: &Arc<Level>, shape: Shape, limit: usize) {
        let mut state = self.lock();
        if let Shape::Queue { queues, .. } = shape
            && state.queues.len() < queues
        {
            state.queues.resize_with(queues, Queue::default);
        }
        state.shape = shape;
        state.limit = limit;
        let turns = self.next_turns(&mut state);
        drop(state);
        hand_out(turns);
    }

    /// The most that was used or waited for since the last call.
    pub fn take_high(&self) -> usize {
        let mut state = self.lock();
        let now = state.in_use + state.waiting_seats;
        std::mem::replace(&mut state.high, now)
    }

    /// Seats without waiting: the path of nearly every request.
    pub fn try_enter(self: &Arc<Level>, asked: &Asked<'_>) -> Option<Ticket> {
        let mut state = self.lock();
        if !state.has_room(asked.seats) || state.waiting > 0 && state.shape != Shape::Exempt {
            return None;
        }
        Some(self.seat(&mut state, asked.counts.clone(), asked.seats, None))
    }

    /// Seats, if need be after waiting for them.
    pub async fn enter(self: &Arc<Level>, asked: Asked<'_>) -> Result<Ticket, Rejection> {
        if let Some(ticket) = self.try_enter(&asked) {
            return Ok(ticket);
        }
        let mut place = self.line_up(&asked)?;
        match tokio::time::timeout(asked.patience, &mut place.turn).await {
            Ok(Ok(ticket)) => Ok(ticket),
            Ok(Err(_)) => Err(Rejection::Cancelled),
            Err(_) => Err(Rejection::TimeOut),
        }
    }

    /// A place at the end of the shortest queue of the flow's hand.
    fn line_up(self: &Arc<Level>, asked: &Asked<'_>) -> Result<Place<'_>, Rejection> {
        let mut state = self.lock();
        let Shape::Queue { queues, hand, length } = state.shape else {
            return Err(Rejection::ConcurrencyLimit);
        };
        let hash = dealer::flow_hash(&asked.counts.schema, asked.distinguisher);
        let work = |queue: &Queue| queue.waiters.len() + queue.executing;
        let queue = dealer::deal(hash, queues, hand)
            .into_iter()
            .min_by_key(|queue| work(&state.queues[*queue]))
            .ok_or(Rejection::QueueFull)?;
        if state.queues[queue].waiters.len() >= length {
            return Err(Rejection::QueueFull);
        }
        let (sender, turn) = oneshot::channel();
        let waiter = Waiter {
            seats: asked.seats,
            since: Instant::now(),
            distinguisher: asked.distinguisher.to_owned(),
            counts: asked.counts.clone(),
            turn: sender,
        };
        state.push(queue, waiter);
        let turns = self.next_turns(&mut state);
        drop(state);
        hand_out(turns);
        Ok(Place { level: self, queue, turn })
    }

    fn seat(
        self: &Arc<Level>,
        state: &mut State,
        counts: Arc<FlowCounts>,
        seats: usize,
        queue: Option<usize>,
    ) -> Ticket {
        state.in_use += seats;
        state.executing += 1;
        state.high = state.high.max(state.in_use + state.waiting_seats);
        if let Some(queue) = queue {
            state.queues[queue].in_use += seats;
            state.queues[queue].executing += 1;
        }
        counts.dispatched.fetch_add(1, Relaxed);
        counts.executing.fetch_add(1, Relaxed);
        Ticket { level: self.clone(), counts, seats, queue, since: Instant::now() }
    }

    /// Seats whoever is next, as long as there is room.
    fn next_turns(self: &Arc<Level>, state: &mut State) -> Turns {
        let mut turns = Turns::new();
        while let Some(queue) = state.next_queue() {
            let Some(waiter) = state.queues[queue].waiters.front() else { break };
            if !state.has_room(waiter.seats) {
                break;
            }
            let Some(waiter) = state.pop(queue) else { break };
            let waited = waiter.since.elapsed();
            waiter.counts.waited.took(waited);
            let ticket = self.seat(state, waiter.counts, waiter.seats, Some(queue));
            turns.push((waiter.turn, ticket));
        }
        turns
    }

    fn leave(self: &Arc<Level>, ticket: &Ticket) {
        let mut state = self.lock();
        state.in_use -= ticket.seats;
        state.executing -= 1;
        if let Some(queue) = ticket.queue {
            state.queues[queue].in_use -= ticket.seats;
            state.queues[queue].executing -= 1;
        }
        let turns = if state.waiting > 0 { self.next_turns(&mut state) } else { Turns::new() };
        drop(state);
        hand_out(turns);
    }

    pub fn picture(&self) -> LevelPicture {
        let state = self.lock();
        LevelPicture {
            name: self.name.clone(),
            exempt: state.shape == Shape::Exempt,
            limit: state.limit,
            in_use: state.in_use,
            executing: state.executing,
            waiting: state.waiting,
            waiting_seats: state.waiting_seats,
            queues: state.queues.iter().map(Queue::picture).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// A request that went away meanwhile drops its ticket, which seats the next.
fn hand_out(turns: Turns) {
    turns.into_iter().for_each(|(turn, ticket)| drop(turn.send(ticket)));
}

// === impl State ===

impl State {
    /// A request wider than its level runs alone.
    fn has_room(&self, seats: usize) -> bool {
        let alone = self.in_use == 0 && self.limit > 0;
        self.shape == Shape::Exempt || alone || self.in_use + seats <= self.limit
    }

    fn push(&mut self, at: usize, waiter: Waiter) {
        let queue = &mut self.queues[at];
        if queue.waiters.is_empty() {
            // An idle queue saves up no time.
            queue.time = queue.time.max(self.now);
        }
        self.waiting += 1;
        self.waiting_seats += waiter.seats;
        waiter.counts.waiting.fetch_add(1, Relaxed);
        queue.waiters.push_back(waiter);
        self.high = self.high.max(self.in_use + self.waiting_seats);
    }

    /// The first of a queue, whose work the queue is charged for.
    fn pop(&mut self, at: usize) -> Option<Waiter> {
        let queue = &mut self.queues[at];
        let waiter = queue.waiters.pop_front()?;
        self.now = queue.time;
        queue.time += waiter.seats as f64;
        self.forget(&waiter);
        Some(waiter)
    }

    fn forget(&mut self, waiter: &Waiter) {
        self.waiting -= 1;
        self.waiting_seats -= waiter.seats;
        waiter.counts.waiting.fetch_sub(1, Relaxed);
    }

    /// Whose turn it is: the waiting queue that is furthest behind.
    fn next_queue(&self) -> Option<usize> {
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiters.is_empty());
        waiting.min_by(|(_, one), (_, other)| one.time.total_cmp(&other.time)).map(|(at, _)| at)
    }

    /// Takes out the waiters of a queue whose requests went away.
    fn prune(&mut self, at: usize) {
        let all = std::mem::take(&mut self.queues[at].waiters);
        let (gone, left): (VecDeque<_>, _) =
            all.into_iter().partition(|waiter: &Waiter| waiter.turn.is_closed());
        self.queues[at].waiters = left;
        gone.iter().for_each(|waiter| self.forget(waiter));
    }
}

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turn.close();
        self.level.lock().prune(self.queue);
        // A turn that came at the last moment is given back after the lock is.
        drop(self.turn.try_recv());
    }
}

// === impl Ticket ===

impl Drop for Ticket {
    fn drop(&mut self) {
        self.counts.executing.fetch_sub(1, Relaxed);
        self.counts.executed.took(self.since.elapsed());
        self.level.clone().leave(self);
    }
}

// === impl Queue ===

impl Queue {
    fn picture(&self) -> QueuePicture {
        let waiter = |waiter: &Waiter| WaiterPicture {
            schema: waiter.counts.schema.clone(),
            distinguisher: waiter.distinguisher.clone(),
            seats: waiter.seats,
            waited: waiter.since.elapsed(),
        };
        QueuePicture {
            executing: self.executing,
            in_use: self.in_use,
            time: self.time,
            waiting: self.waiters.iter().map(waiter).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
