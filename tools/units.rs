//! Sizes, times and rates as people write them on a command line, and as tables show them.

use terrace::BlockSize;

/// `4096`, `16k`, `4KiB`, `1.5GiB`: bytes. Every unit is a power of 1024, however it is spelled.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("`{unit}` is no unit of size; use KiB, MiB, GiB or TiB, or plain bytes")),
    };
    scaled(number, (1u64 << shift) as f64).ok_or_else(|| "expected a size such as 4096, 64MiB or 1GiB".into())
}

/// A size that the cache takes for its blocks.
pub(crate) fn parse_block_size(text: &str) -> Result<BlockSize, String> {
    BlockSize::new(parse_size(text)?).map_err(|error| error.to_string())
}

/// `8ms`, `90us`, `0.01s`: microseconds.
pub(crate) fn parse_duration_us(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return Err("expected a time with its unit, such as 8ms or 90us".into()),
    };
    scaled(number, scale).ok_or_else(|| "expected a time such as 8ms or 90us".into())
}

/// `90s`, `2h`, `1.5m`, `20ms`: nanoseconds.
pub(crate) fn parse_duration_ns(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        "d" => 86_400e9,
        _ => return Err("expected a time with its unit, such as 90s, 20ms or 2h".into()),
    };
    scaled(number, scale).ok_or_else(|| "expected a time such as 90s, 20ms or 2h".into())
}

/// `150MB/s`, `150M`: bytes a second.
pub(crate) fn parse_bandwidth(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text.strip_suffix("/s").unwrap_or(text))?;
    if bytes == 0 { Err("a bandwidth of nothing never ends".into()) } else { Ok(bytes) }
}

/// The number and the unit behind it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// Whole numbers exactly, fractions as near as they come; none when it is no number or too large.
fn scaled(number: &str, scale: f64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale as u64);
    }
    let value = number.parse::<f64>().ok()? * scale;
    (value >= 0.0 && value < u64::MAX as f64).then_some(value.round() as u64)
}

/// Bytes for people: `1.5 GiB`.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// Bytes a second for people: `1.5 MiB/s`.
pub(crate) fn show_bytes_rate(rate: f64) -> String {
    format!("{}/s", show_bytes(rate.round() as u64))
}

/// So many a second, for people: `0.4/s`, `12,345/s`.
pub(crate) fn show_rate(rate: f64) -> String {
    if rate < 10.0 && rate.fract() != 0.0 {
        format!("{rate:.1}/s")
    } else {
        format!("{}/s", show_count(rate.round() as u64))
    }
}

/// A count for people: `1,141,869`.
pub(crate) fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Microseconds for people: `0.8 us`, `120 us`, `8.2 ms`.
pub(crate) fn show_us(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.1} us"),
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e4 => format!("{:.1} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

/// Seconds for people: `90.0 s`, `1 h 30 min`, `3 d 4 h`.
pub(crate) fn show_seconds(seconds: f64) -> String {
    let whole = |unit: f64| (seconds / unit).floor();
    match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.1} s"),
        seconds if seconds < 7200.0 => format!("{:.1} min", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{} h {:.0} min", whole(3600.0), whole(60.0) % 60.0),
        _ => format!("{} d {:.0} h", whole(86_400.0), whole(3600.0) % 24.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_spelling_and_all_units_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("16k", 16384),
            ("4KiB", 4096),
            ("4 KB", 4096),
            ("1.5MiB", 3 << 19),
            ("1G", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1x", "1.2.3", "99999999999T", "four"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_need_their_unit_and_rates_may_say_per_second() {
        assert_eq!(parse_duration_us("8ms"), Ok(8000));
        assert_eq!(parse_duration_us("0.5s"), Ok(500_000));
        assert_eq!(parse_duration_ns("1.5m"), Ok(90_000_000_000));
        assert!(parse_duration_ns("5").is_err());
        assert!(parse_duration_us("8").is_err());
        assert_eq!(parse_bandwidth("150MB/s"), Ok(150 << 20));
        assert!(parse_bandwidth("0").is_err());
    }

    #[test]
    fn counts_bytes_and_times_are_shown_as_people_write_them() {
        assert_eq!(show_count(0), "0");
        assert_eq!(show_count(1_141_869), "1,141,869");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!([0.0, 0.44, 9.0, 12345.4].map(show_rate), ["0/s", "0.4/s", "9/s", "12,345/s"]);
        assert_eq!(show_bytes_rate(1535.9), "1.5 KiB/s");
        assert_eq!(show_bytes(64 << 20), "64 MiB");
        assert_eq!((show_us(0.84), show_us(8200.0)), ("0.8 us".to_string(), "8.2 ms".to_string()));
        let shown = [1.25, 150.0, 7260.0, 270_000.0].map(show_seconds);
        assert_eq!(shown, ["1.2 s", "2.5 min", "2 h 1 min", "3 d 3 h"]);
    }
}
