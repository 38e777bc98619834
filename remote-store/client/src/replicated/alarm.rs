// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting until a time that is nearer than the runtime's timers can tell.
//!
//! These count milliseconds, and a read that is late after 300 µs would be asked for once more when the
//! first answer is ten times later than that. The kernel's timers do better. A simulation's time is the
//! runtime's alone.

use std::cell::OnceCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, timeout_at};

/// Beyond this, a millisecond more is no matter.
const FINE: Duration = Duration::from_millis(20);
const ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// A timer of one session.
#[derive(Debug)]
pub(super) struct Alarm {
    is_real_time: bool,
    /// Made when it is first waited for, in the session's runtime; nothing if there is none to be had.
    timer: OnceCell<Option<Receiver>>,
}

impl Alarm {
    pub(super) fn new(is_real_time: bool) -> Self {
        Self {
            is_real_time,
            timer: OnceCell::new(),
        }
    }

    /// What `work` comes to, if it does before `at`.
    pub(super) async fn before<T>(&self, at: Instant, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let end = poll_fn(|cx| {
            // Most answers are there before any timer is needed.
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(End::Done(done));
            }
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                Poll::Ready(End::Late)
            } else if left < FINE && self.ring_after(cx, left) {
                Poll::Pending
            } else {
                Poll::Ready(End::LeftToRuntime)
            }
        });
        match end.await {
            End::Done(done) => Some(done),
            End::Late => None,
            End::LeftToRuntime => timeout_at(at, work).await.ok(),
        }
    }

    /// Has the kernel wake this task after a time. False if it cannot.
    fn ring_after(&self, cx: &mut Context<'_>, left: Duration) -> bool {
        let make = || self.is_real_time.then(timer)?.ok();
        let Some(timer) = self.timer.get_or_init(make) else {
            return false;
        };
        // In this order: what is heard from now on may wake too often, but is not missed.
        listen(timer, cx).is_ok() && set(timer, left).is_ok()
    }
}

enum End<T> {
    Done(T),
    Late,
    LeftToRuntime,
}

/// A timer is read like a pipe. Other ways to have the runtime watch a descriptor are unsafe.
fn timer() -> io::Result<Receiver> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    Receiver::from_owned_fd_unchecked(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

fn set(timer: &Receiver, left: Duration) -> io::Result<()> {
    let it_value = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        // Nothing at all would stop it.
        tv_nsec: i64::from(left.subsec_nanos().max(1)),
    };
    let value = Itimerspec {
        it_interval: ONCE,
        it_value,
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &value)?;
    Ok(())
}

/// Forgets earlier settings, and has the task woken by the next.
fn listen(timer: &Receiver, cx: &mut Context<'_>) -> io::Result<()> {
    while let Poll::Ready(ready) = timer.poll_read_ready(cx) {
        ready?;
        match timer.try_read(&mut [0; 8]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn what_comes_in_time_is_had_and_what_does_not_is_not_waited_for() {
        for is_real_time in [false, true] {
            let alarm = Alarm::new(is_real_time);
            for micros in [0, 1, 300, 5000, 30_000] {
                let after = Duration::from_micros(micros);
                let begun = Instant::now();
                let late = alarm.before(begun + after, pending::<()>()).await;
                assert_eq!(late, None, "{micros} µs");
                assert!(begun.elapsed() >= after, "{micros} µs");
                // An earlier setting must not be heard in place of this one.
                let long = Duration::from_secs(60);
                let soon = async {
                    sleep(Duration::from_millis(1)).await;
                    micros
                };
                let in_time = alarm.before(Instant::now() + long, soon).await;
                assert_eq!(in_time, Some(micros));
                assert_eq!(alarm.before(begun, ready(micros)).await, Some(micros));
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn real_time_is_the_kernels() {
        let alarm = Alarm::new(true);
        let at = Instant::now() + Duration::from_micros(300);
        assert_eq!(alarm.before(at, pending::<()>()).await, None);
        assert!(matches!(alarm.timer.get(), Some(Some(_))));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn simulated_time_is_the_runtimes() {
        let alarm = Alarm::new(false);
        let begun = Instant::now();
        let after = Duration::from_millis(7);
        assert_eq!(alarm.before(begun + after, pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), after);
    }
}
