//! A place in a trace's time: so long after its first request, or a moment of the world's clock.
//!
//! Traces count their nanoseconds from different moments, and no format says from which. The times themselves do: those
//! of a wall clock fall into the years 1990 to 2100, counted since 1970, or since 1601 as Windows does. A count from the
//! start of a machine or of a recording never comes there: the first of these years is 20 years of running away.

use std::ops::Range;

use crate::units::parse_duration_ns;

const SECOND_NS: u64 = 1_000_000_000;
const DAY_SECONDS: u64 = 86_400;
/// From 1601 to 1970.
const WINDOWS_SECONDS: u64 = 11_644_473_600;
/// 1990 to 2100, since 1970.
const PLAUSIBLE_SECONDS: Range<u64> = 631_152_000..4_102_444_800;
/// Days before each month of a year without a leap day.
const DAYS_BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

/// Where a part of a trace begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// So many nanoseconds after the first request.
    Since(u64),
    /// Nanoseconds since 1970, UTC.
    At(u64),
}

impl Moment {
    /// Nanoseconds after a first request that is stamped `first_ns`, 0 when it was before; none when that is the time of
    /// no wall clock and this names one.
    pub(super) fn since(self, first_ns: u64) -> Option<u64> {
        match self {
            Self::Since(ns) => Some(ns),
            Self::At(ns) => Some(ns.saturating_sub(wall_clock_ns(first_ns)?)),
        }
    }
}

/// `90s`, `2h`: after the first request. `2008-02-22`, `2008-02-22T17:03:07.5Z`: UTC.
pub(crate) fn parse_moment(text: &str) -> Result<Moment, String> {
    if text.as_bytes().get(4) == Some(&b'-') {
        let expected = || "expected a moment of UTC such as 2008-02-22T17:03:07Z".to_string();
        return parse_utc(text).map(Moment::At).ok_or_else(expected);
    }
    match parse_duration_ns(text) {
        Ok(ns) => Ok(Moment::Since(ns)),
        Err(expected) => Err(format!("{expected}, or a moment such as 2008-02-22T17:03:07Z")),
    }
}

/// A time of a trace as nanoseconds since 1970; none when it is no wall clock's.
fn wall_clock_ns(time_ns: u64) -> Option<u64> {
    [0, WINDOWS_SECONDS * SECOND_NS]
        .into_iter()
        .filter_map(|epoch_ns| time_ns.checked_sub(epoch_ns))
        .find(|since_ns| PLAUSIBLE_SECONDS.contains(&(since_ns / SECOND_NS)))
}

fn parse_utc(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let mut date = date.split('-');
    let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':');
    let (hours, minutes) = (number(time.next()?, 2)?, number(time.next()?, 2)?);
    let seconds = time.next().map_or(Some(0), |seconds| number(seconds, 2))?;
    let is_whole = date.next().is_none() && time.next().is_none();
    if !is_whole || hours > 23 || minutes > 59 || seconds > 59 || !(1970..2500).contains(&year) {
        return None;
    }
    let of_day = (hours * 60 + minutes) * 60 + seconds;
    let fraction_ns = format!("{:0<9}", fraction.get(..fraction.len().min(9))?);
    let whole_ns = (days_before(year, month, day)? * DAY_SECONDS + of_day).checked_mul(SECOND_NS)?;
    Some(whole_ns + number(&fraction_ns, 9)?)
}

/// Days from 1970 to a day; none when the month has no such day.
fn days_before(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let before = *DAYS_BEFORE_MONTH.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    let after = DAYS_BEFORE_MONTH.get(month as usize).copied().unwrap_or(365);
    if !(1..=after - before + u64::from(is_leap && month == 2)).contains(&day) {
        return None;
    }
    let leap_days = |years: u64| years / 4 - years / 100 + years / 400;
    let of_years = 365 * (year - 1970) + leap_days(year - 1) - leap_days(1969);
    Some(of_years + before + u64::from(is_leap && month > 2) + day - 1)
}

/// A number of exactly so many digits.
fn number(text: &str, digits: usize) -> Option<u64> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_utc_and_everything_else_as_a_time_since_the_beginning() {
        let at = |seconds: u64, ns: u64| Ok(Moment::At(seconds * SECOND_NS + ns));
        for (text, wanted) in [
            ("1970-01-01", at(0, 0)),
            ("2000-02-29T23:59:59Z", at(951_868_799, 0)),
            ("2007-02-22 17:03:07.25", at(1_172_163_787, 250_000_000)),
            ("2020-01-01T00:00Z", at(1_577_836_800, 0)),
            ("2100-03-01", at(4_107_542_400, 0)),
            ("90s", Ok(Moment::Since(90 * SECOND_NS))),
        ] {
            assert_eq!(parse_moment(text), wanted, "{text}");
        }
        for text in
            ["2001-02-29", "2001-13-01", "2001-01-01T24:00", "2001-1-1", "2001-01-01T1:00", "soon", "9"]
        {
            assert!(parse_moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn wall_clocks_are_told_by_their_years_whatever_they_count_from() {
        let moment = parse_moment("2007-02-22T17:03:07Z").expect("good");
        let unix = 1_172_163_780 * SECOND_NS;
        assert_eq!(moment.since(unix), Some(7 * SECOND_NS));
        assert_eq!(moment.since(unix + WINDOWS_SECONDS * SECOND_NS), Some(7 * SECOND_NS));
        assert_eq!(moment.since(unix + 60 * SECOND_NS), Some(0), "it was before");
        assert_eq!(moment.since(9000 * DAY_SECONDS / 2 * SECOND_NS), None, "twelve years of running");
        assert_eq!(Moment::Since(5).since(0), Some(5));
    }
}
