// SPDX-License-Identifier: Apache-2.0
//! The mux that gives an SPD bus to the host or to the BMC, at a GPIO line (rules 3.3).
//!
//! Owns: the line, on a thread of its own for each mux: the line may be at an expander on a bus that hangs, and neither the loop
//! nor another host's mux may wait for that. A line of the chip itself is switched in microseconds. Must never: decide whose the bus is.
//! When nobody is left to give orders, the host gets the bus.

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use gpiocdev::{Request, line::Value};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    config::SpdMux,
    logic::event::{Epoch, Event},
    shell::{
        messages::Input,
        permits::HostIndex,
        ports::{GpioLine, GpioLines, MuxOrders, Side},
    },
};

/// A line that cannot be switched is tried again so often.
const AGAIN: Duration = Duration::from_secs(1);
/// Enough for an ioctl and a log line.
const STACK: usize = 64 * 1024;

/// The kernel's lines.
#[derive(Clone, Copy, Debug)]
pub struct LinuxLines;

impl GpioLines for LinuxLines {
    fn line(&self, name: &str) -> Box<dyn GpioLine> {
        Box::new(Gpio { name: name.to_owned(), request: None })
    }
}

/// The kernel's line of this name; found and requested when it is first driven, since its chip may come later.
struct Gpio {
    name: String,
    request: Option<Request>,
}

impl GpioLine for Gpio {
    fn drive(&mut self, high: bool) -> io::Result<()> {
        let value = if high { Value::Active } else { Value::Inactive };
        if let Some(request) = &self.request {
            return request.set_lone_value(value).map(drop).map_err(io::Error::other);
        }
        let found = gpiocdev::find_named_line(&self.name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no GPIO chip has a line of this name"))?;
        let request = Request::builder()
            .with_consumer(env!("CARGO_PKG_NAME"))
            .with_found_line(&found)
            .as_output(value)
            .request()
            .map_err(io::Error::other)?;
        self.request = Some(request);
        Ok(())
    }
}

/// The thread of this host's mux, which tells the loop what has been done. A handover at its end
/// is done when `done` is dropped.
pub(crate) fn start(
    host: HostIndex,
    settings: &SpdMux,
    lines: &dyn GpioLines,
    inputs: UnboundedSender<Input>,
    done: UnboundedSender<()>,
) -> io::Result<MuxOrders> {
    let line = lines.line(&settings.line);
    let (orders, to_do) = channel();
    let (name, host_level) = (settings.line.clone(), settings.host_level);
    let say = move |event| inputs.send(Input::Event(host, event)).unwrap_or_default();
    let run = move || {
        serve(&name, host_level, line, &to_do, say);
        drop(done);
    };
    std::thread::Builder::new().name("spd-mux".to_owned()).stack_size(STACK).spawn(run)?;
    Ok(MuxOrders(orders))
}

fn serve(
    name: &str,
    host_level: bool,
    mut line: Box<dyn GpioLine>,
    orders: &Receiver<(Side, Epoch)>,
    say: impl Fn(Event),
) {
    let level = |side| if side == Side::Host { host_level } else { !host_level };
    let mut failing = false;
    let mut wanted = None;
    loop {
        let next = match wanted {
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => orders.recv_timeout(AGAIN),
        };
        wanted = match next {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => wanted,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        // Only the newest order counts.
        wanted = orders.try_iter().last().or(wanted);
        let Some((side, epoch)) = wanted else { continue };
        match line.drive(level(side)) {
            Ok(()) => {
                wanted = None;
                if std::mem::take(&mut failing) {
                    tracing::info!("the SPD mux {name} can be switched again");
                }
                say(match side {
                    Side::Host => Event::MuxAtHost { epoch },
                    Side::Bmc => Event::MuxAtBmc { epoch },
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!("the SPD mux {name} cannot be switched: {error}");
                }
            }
        }
    }
    if let Err(error) = line.drive(host_level) {
        tracing::error!("the SPD mux {name} cannot be given to the host: {error}");
    }
}

/// Gives buses to their hosts, where a daemon died that may have had them: all at once, each on a thread of its own, since a line
/// may be at an expander on a bus that hangs. Returns those that were not given by `until`, with why.
#[must_use]
pub fn give_to_hosts(muxes: &[&SpdMux], lines: &dyn GpioLines, until: Instant) -> Vec<(String, io::Error)> {
    let (done, given) = channel();
    let mut failed = Vec::new();
    let mut waiting = Vec::new();
    for settings in muxes {
        let (name, level, done) = (settings.line.clone(), settings.host_level, done.clone());
        let mut line = lines.line(&name);
        let give = move || done.send((name, line.drive(level))).unwrap_or_default();
        match std::thread::Builder::new().name("spd-mux".to_owned()).stack_size(STACK).spawn(give) {
            Ok(_detached) => waiting.push(settings.line.clone()),
            Err(error) => failed.push((settings.line.clone(), error)),
        }
    }
    while !waiting.is_empty() {
        let Ok((name, result)) = given.recv_timeout(until.saturating_duration_since(Instant::now())) else {
            break;
        };
        waiting.retain(|other| *other != name);
        failed.extend(result.err().map(|error| (name, error)));
    }
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the line does not answer");
    failed.extend(waiting.into_iter().map(|name| (name, late())));
    failed
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    /// A line that keeps the levels it was driven to; it fails as often as it is told to.
    #[derive(Clone, Default)]
    struct Fake {
        driven: Arc<Mutex<Vec<bool>>>,
        fails: Arc<Mutex<u32>>,
    }

    impl GpioLines for Fake {
        fn line(&self, _: &str) -> Box<dyn GpioLine> {
            Box::new(self.clone())
        }
    }

    impl GpioLine for Fake {
        fn drive(&mut self, high: bool) -> io::Result<()> {
            let mut fails = self.fails.lock().unwrap();
            if *fails > 0 {
                *fails -= 1;
                return Err(io::Error::other("stuck"));
            }
            self.driven.lock().unwrap().push(high);
            Ok(())
        }
    }

    /// Never, where its name says so.
    struct Hangs;

    impl GpioLines for Hangs {
        fn line(&self, name: &str) -> Box<dyn GpioLine> {
            if name == "HANGS" { Box::new(Self) } else { Box::new(Fake::default()) }
        }
    }

    impl GpioLine for Hangs {
        fn drive(&mut self, _: bool) -> io::Result<()> {
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
    }

    #[test]
    fn a_line_that_hangs_keeps_no_other_from_its_host() {
        let mux = |line: &str| SpdMux { line: line.to_owned(), host_level: true };
        let (first, second) = (mux("HANGS"), mux("FREE"));
        let began = Instant::now();
        let failed = give_to_hosts(&[&first, &second], &Hangs, began + Duration::from_secs(5));
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        let names: Vec<_> = failed.iter().map(|(name, error)| (name.as_str(), error.kind())).collect();
        assert_eq!(names, [("HANGS", io::ErrorKind::TimedOut)]);
        assert!(give_to_hosts(&[&second], &Hangs, Instant::now() + Duration::from_secs(60)).is_empty());
    }

    fn play(host_level: bool, fails: u32, orders: &[(Side, u32)]) -> (Vec<bool>, Vec<Event>) {
        let fake = Fake { fails: Arc::new(Mutex::new(fails)), ..Fake::default() };
        let (inputs, mut heard) = unbounded_channel();
        let (done, mut over) = unbounded_channel();
        let settings = SpdMux { line: "SPD_MUX_SEL".to_owned(), host_level };
        let mux = start(2, &settings, &fake, inputs, done).unwrap();
        let mut events = Vec::new();
        for (side, epoch) in orders {
            mux.order(*side, Epoch(*epoch));
            match heard.blocking_recv() {
                Some(Input::Event(2, event)) => events.push(event),
                other => panic!("{other:?}"),
            }
        }
        drop(mux);
        // The call returns when the thread has ended.
        assert_eq!(over.blocking_recv(), None);
        let driven = fake.driven.lock().unwrap().clone();
        (driven, events)
    }

    #[test]
    fn each_order_is_done_said_and_at_the_end_the_host_has_it() {
        let orders = [(Side::Host, 4), (Side::Bmc, 4)];
        let events = [Event::MuxAtHost { epoch: Epoch(4) }, Event::MuxAtBmc { epoch: Epoch(4) }];
        assert_eq!(play(true, 0, &orders), (vec![true, false, true], events.to_vec()));
        assert_eq!(play(false, 0, &orders), (vec![false, true, false], events.to_vec()));
    }

    #[test]
    fn a_line_that_cannot_be_switched_is_tried_again() {
        let (driven, events) = play(true, 1, &[(Side::Bmc, 1)]);
        assert_eq!((driven, events), (vec![false, true], vec![Event::MuxAtBmc { epoch: Epoch(1) }]));
    }
}
