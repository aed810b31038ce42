// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use super::*;
use crate::config::{Device, Group, Limits, Source};

fn settings() -> config::Sensor {
    let source = Source::Device { device: Device::Jc42, bus: 3, address: 0x18 };
    config::Sensor {
        warning: Limits { low: Some(5.0), high: Some(85.0) },
        critical: Limits { low: None, high: Some(95.0) },
        ..config::Sensor::new("DIMM".to_owned(), 0, Group::Dimm, source)
    }
}

fn at(ms: u64) -> Time {
    Time::from_micros(ms * 1000)
}

fn degrees(degrees: f64) -> Result<Celsius, Fault> {
    Celsius::plausible(degrees)
}

const ABSENT: Result<Celsius, Fault> = Err(Fault::Absent);

fn opened(settings: &config::Sensor) -> Sensor {
    let mut sensor = Sensor::new(settings);
    sensor.follow(at(0), SensorMode::Read, Proof::Fresh);
    sensor
}

/// Returns a sensor that answered 40 degrees at once.
fn well() -> Sensor {
    let mut sensor = opened(&settings());
    assert_eq!(sensor.read(at(0), degrees(40.0)), None);
    sensor
}

fn value(sensor: &Sensor) -> Option<f64> {
    sensor.snapshot().value.map(Celsius::degrees)
}

#[test]
fn it_comes_back_only_with_a_good_read() {
    let mut sensor = Sensor::new(&settings());
    assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE);
    assert_eq!(sensor.wake_at(), None, "nothing is expected of one that may not be read");
    assert_eq!(sensor.read(at(0), degrees(40.0)), None);
    assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE, "it may not be read");
    sensor.follow(at(0), SensorMode::Read, Proof::Fresh);
    assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE);
    sensor.read(at(10), degrees(40.0));
    let Snapshot { available, functional, .. } = sensor.snapshot();
    assert_eq!((value(&sensor), available, functional), (Some(40.0), true, true));
}

#[test]
fn while_nobody_can_say_whether_it_may_be_read_its_value_stays_for_a_while() {
    let mut sensor = well();
    sensor.follow(at(100), SensorMode::Read, Proof::Old);
    assert_eq!(sensor.wake_at(), None, "it is not its fault");
    sensor.tick(at(9000));
    assert_eq!(value(&sensor), Some(40.0));
    // A read that was under way is one.
    assert_eq!(sensor.read(at(9000), degrees(45.0)), None);
    assert_eq!(value(&sensor), Some(45.0));
    sensor.follow(at(10_000), SensorMode::Read, Proof::Silent);
    assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE);
    assert_eq!(sensor.read(at(10_100), degrees(46.0)), None);
    assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE);
    assert!(sensor.answers(), "that it is there is known");
    sensor.follow(at(60_000), SensorMode::Read, Proof::Fresh);
    sensor.tick(at(60_000));
    assert_eq!((sensor.snapshot(), sensor.wake_at()), (Snapshot::UNAVAILABLE, Some(at(62_000))));
    assert_eq!(sensor.read(at(60_500), degrees(47.0)), None);
    assert_eq!(value(&sensor), Some(47.0));
}

#[test]
fn a_value_that_stayed_has_two_more_periods() {
    let mut sensor = well();
    sensor.follow(at(100), SensorMode::Read, Proof::Old);
    sensor.follow(at(7000), SensorMode::Read, Proof::Fresh);
    sensor.tick(at(8900));
    assert_eq!(value(&sensor), Some(40.0));
    sensor.tick(at(9000));
    assert_eq!(value(&sensor), None);
    // A value that a closing forgot does not come back with the proof.
    let mut sensor = well();
    sensor.follow(at(100), SensorMode::Read, Proof::Old);
    sensor.follow(at(200), SensorMode::Unavailable, Proof::Old);
    sensor.follow(at(300), SensorMode::Read, Proof::Fresh);
    assert_eq!((sensor.snapshot(), sensor.answers()), (Snapshot::UNAVAILABLE, false));
}

#[test]
fn a_proof_is_as_fresh_as_its_age() {
    use Proof::{Fresh, Old, Silent};
    let of = |seconds| Proof::of(Duration::from_secs(seconds), Duration::from_secs(3));
    assert_eq!([0, 2, 3, 9, 10, 1000].map(of), [Fresh, Fresh, Old, Old, Silent, Silent]);
}

#[test]
fn it_goes_at_once_and_with_its_alarms() {
    let mut sensor = opened(&settings());
    sensor.read(at(0), degrees(96.0));
    assert!(sensor.snapshot().critical.high);
    sensor.follow(at(1), SensorMode::Unavailable, Proof::Fresh);
    assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE);
    sensor.follow(at(2), SensorMode::Read, Proof::Fresh);
    assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE, "the old value does not come back");
    assert!(!sensor.is_known());
}

#[test]
fn the_fifth_failed_read_in_a_row_shows_that_it_failed() {
    let mut sensor = well();
    let mut seen = Vec::new();
    for failed in 1..=6_u64 {
        let note = sensor.read(at(500 * (failed + 1)), ABSENT);
        assert_eq!(note, (failed == 1).then_some(Note::Failing(Fault::Absent)), "said once");
        seen.push((value(&sensor).is_some(), sensor.snapshot() == Snapshot::FAILED));
    }
    let (shown, hidden, failed) = ((true, false), (false, false), (false, true));
    assert_eq!(seen, [shown, shown, hidden, hidden, failed, failed]);
    assert_eq!(sensor.read(at(9000), degrees(41.0)), Some(Note::Recovered));
    assert_eq!(value(&sensor), Some(41.0));
    assert!(sensor.snapshot().functional);
}

#[test]
fn a_slot_that_never_answered_stays_unavailable_unless_it_is_required() {
    for required in [false, true] {
        let mut sensor = opened(&config::Sensor { required, ..settings() });
        for failed in 1..=9 {
            sensor.read(at(500 * failed), ABSENT);
        }
        let shown = if required { Snapshot::FAILED } else { Snapshot::UNAVAILABLE };
        assert_eq!(sensor.snapshot(), shown);
        assert!(sensor.is_known() && !sensor.answers());
        assert_eq!(sensor.wake_at(), None, "nothing more is expected");
    }
}

/// A device that answers is there, whatever it says: it is not taken for an empty slot. A hub that has no sensor is.
#[test]
fn a_device_that_answers_and_does_not_fit_is_shown_as_failed() {
    let there = [Fault::Page(3), Fault::Unfit("another"), Fault::Implausible, Fault::Bound];
    let not = [
        Fault::Absent,
        Fault::NoBus,
        Fault::Hung,
        Fault::ArbitrationLost,
        Fault::NoSensor("a hub without"),
        Fault::Other(5),
    ];
    for (faults, shown) in [(&there[..], Snapshot::FAILED), (&not, Snapshot::UNAVAILABLE)] {
        for fault in faults {
            let mut sensor = opened(&settings());
            for failed in 1..=5 {
                sensor.read(at(500 * failed), Err(*fault));
            }
            assert_eq!(sensor.snapshot(), shown, "{fault:?}");
        }
    }
}

/// A slot was reported as empty. A device that is in it after all, and cannot be read, is reported too, once.
#[test]
fn a_fault_that_shows_a_device_is_said_also_after_one_that_does_not() {
    let mut sensor = opened(&settings());
    let mut said = Vec::new();
    for (time, fault) in
        [Fault::Absent, Fault::Hung, Fault::Page(1), Fault::Absent, Fault::Page(1)].into_iter().enumerate()
    {
        said.push(sensor.read(at(500 * time as u64), Err(fault)));
    }
    let notes = [Some(Fault::Absent), None, Some(Fault::Page(1)), None, None];
    assert_eq!(said, notes.map(|fault| fault.map(Note::Failing)));
    assert_eq!(sensor.read(at(9000), degrees(40.0)), Some(Note::Recovered));
}

/// A DIMM was taken out while the host was off: its slot is as empty as one that never had any.
#[test]
fn what_was_there_before_a_closing_is_not_expected_after_it() {
    for required in [false, true] {
        let mut sensor = opened(&config::Sensor { required, ..settings() });
        sensor.read(at(0), degrees(40.0));
        sensor.follow(at(1000), SensorMode::Unavailable, Proof::Fresh);
        sensor.follow(at(2000), SensorMode::Read, Proof::Fresh);
        for failed in 1..=9 {
            sensor.read(at(2000 + 500 * failed), ABSENT);
        }
        let shown = if required { Snapshot::FAILED } else { Snapshot::UNAVAILABLE };
        assert_eq!(sensor.snapshot(), shown);
        sensor.read(at(9000), degrees(41.0));
        for failed in 1..=5 {
            sensor.read(at(9000 + 500 * failed), ABSENT);
        }
        assert_eq!(sensor.snapshot(), Snapshot::FAILED, "one that came late and went is missed");
    }
}

#[test]
fn one_lost_read_is_not_seen() {
    let mut sensor = well();
    sensor.read(at(1000), Err(Fault::ArbitrationLost));
    sensor.tick(at(1400));
    assert_eq!(value(&sensor), Some(40.0));
    sensor.read(at(1500), degrees(40.0));
    sensor.tick(at(2100));
    assert_eq!(value(&sensor), Some(40.0));
}

#[test]
fn nothing_older_than_two_periods_is_shown_and_no_answer_is_a_failure() {
    let mut sensor = well();
    assert_eq!(sensor.wake_at(), Some(at(2000)));
    sensor.tick(at(1999));
    assert_eq!(value(&sensor), Some(40.0));
    // The bus hangs.
    let mut failed_at = None;
    for _ in 0..20 {
        let Some(now) = sensor.wake_at() else { break };
        sensor.tick(now);
        assert_eq!(value(&sensor), None, "at {now}");
        if sensor.snapshot() == Snapshot::FAILED {
            failed_at = failed_at.or(Some(now));
        }
    }
    assert_eq!(failed_at, Some(at(6000)), "five reads that should have come");
    assert_eq!(sensor.wake_at(), None);
}

#[test]
fn a_value_that_moves_by_no_more_than_the_step_is_not_published() {
    let mut sensor = well();
    for (read, published) in [(40.25, 40.0), (39.75, 40.0), (40.5, 40.5), (40.25, 40.5), (40.0, 40.0)] {
        sensor.read(at(1), degrees(read));
        assert_eq!(value(&sensor), Some(published), "{read}");
    }
}

#[test]
fn alarms_begin_at_the_threshold_and_end_behind_the_hysteresis() {
    let mut sensor = well();
    let steps = [
        (84.9, false, false, false),
        (85.0, true, false, false),
        (84.0, true, false, false),
        (83.9, false, false, false),
        (95.0, true, true, false),
        (93.9, true, false, false),
        (5.0, false, false, true),
        (6.0, false, false, true),
        (6.1, false, false, false),
    ];
    for (read, warning, critical, cold) in steps {
        sensor.read(at(1), degrees(read));
        let shown = sensor.snapshot();
        let alarms = (shown.warning.high, shown.critical.high, shown.warning.low);
        assert_eq!(alarms, (warning, critical, cold), "{read}");
    }
}

/// The step may not hide the value that an alarm is about.
#[test]
fn a_value_that_sets_an_alarm_is_published() {
    let mut sensor = opened(&config::Sensor { step: 10.0, ..settings() });
    sensor.read(at(0), degrees(80.0));
    sensor.read(at(1), degrees(84.0));
    assert_eq!(value(&sensor), Some(80.0));
    sensor.read(at(2), degrees(85.0));
    assert_eq!(value(&sensor), Some(85.0));
}

proptest::proptest! {
    /// Whatever happens: unavailable while it may not be read; never a value older than two periods; a value is
    /// always functional and available; never more alarms than values.
    #[test]
    fn what_is_shown_is_true(events in proptest::collection::vec((0_u8..8, 0_u64..3000), 1..200)) {
        let mut sensor = Sensor::new(&settings());
        let (mut now, mut last_good) = (0, None);
        for (event, wait) in events {
            now += wait;
            match event {
                0 => { sensor.follow(at(now), SensorMode::Unavailable, Proof::Fresh); last_good = None; }
                1 => sensor.follow(at(now), SensorMode::Read, Proof::Fresh),
                2..=4 => {
                    sensor.read(at(now), degrees(f64::from(event) * 30.0));
                    if sensor.mode() == SensorMode::Read { last_good = Some(now); }
                }
                5 => { sensor.read(at(now), ABSENT); }
                // The event loop ticks at each wake-up.
                _ => {}
            }
            while let Some(due) = sensor.wake_at().filter(|due| *due <= at(now)) {
                sensor.tick(at(now));
                assert_ne!(sensor.wake_at(), Some(due), "it does not get on");
            }
            let shown = sensor.snapshot();
            if sensor.mode() == SensorMode::Unavailable {
                assert_eq!(shown, Snapshot::UNAVAILABLE);
            }
            if shown.value.is_some() {
                assert!(shown.available && shown.functional);
                assert!(last_good.is_some_and(|good| now < good + 2000));
            } else {
                assert!(!shown.functional);
                assert_eq!((shown.warning, shown.critical), (Alarm::default(), Alarm::default()));
            }
        }
    }
}
