//! How long devices take, and the latency of reads that some of them answer.
//!
//! A device's latency is taken as lognormal, the distribution that its mean and 99th percentile fix: never negative,
//! with a long tail. The percentile of reads over several devices is where the mixture of them is at 99 %.

use std::path::PathBuf;
use std::str::FromStr;

use crate::units::parse_duration_us;

/// Of one device, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub(crate) struct Latency {
    pub(crate) mean_us: f64,
    pub(crate) p99_us: f64,
}

/// Three times the mean: near what disks under light load show.
const P99_OVER_MEAN: f64 = 3.0;
/// The 99th percentile of the normal distribution.
const Z99: f64 = 2.326_347_874;

impl Latency {
    pub(crate) fn new(mean_us: f64, p99_us: f64) -> Self {
        Self { mean_us, p99_us: p99_us.max(mean_us) }
    }

    pub(crate) fn times(self, factor: f64) -> Self {
        Self::new(self.mean_us * factor, self.p99_us * factor)
    }

    /// Both parameters of the normal distribution of its logarithm.
    fn log_normal(self) -> (f64, f64) {
        // ln(p99 / mean) = z s - s^2 / 2, of which the smaller root is meant; there is none beyond s = z.
        let spread = (self.p99_us / self.mean_us).ln().clamp(0.0, Z99 * Z99 / 2.0);
        let sigma = Z99 - (Z99 * Z99 - 2.0 * spread).max(0.0).sqrt();
        (self.mean_us.ln() - sigma * sigma / 2.0, sigma)
    }

    /// The share of its answers that take at most `us`.
    fn share_within(self, us: f64) -> f64 {
        let (mu, sigma) = self.log_normal();
        if sigma < 1e-9 {
            return if us >= self.mean_us { 1.0 } else { 0.0 };
        }
        normal_share_below((us.ln() - mu) / sigma)
    }
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mean, p99) = text.split_once(',').map_or((text, None), |(mean, p99)| (mean, Some(p99)));
        let mean_us = parse_duration_us(mean)? as f64;
        let p99_us =
            p99.map_or(Ok(mean_us * P99_OVER_MEAN), |p99| parse_duration_us(p99).map(|us| us as f64))?;
        if mean_us < 1.0 || p99_us < mean_us {
            return Err("expected a mean of 1us or more, and a 99th percentile not below it: 8ms,25ms".into());
        }
        Ok(Self::new(mean_us, p99_us))
    }
}

/// Reads, a share of them by each device; the shares sum to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Mixture {
    pub(crate) parts: [(f64, Latency); 3],
}

impl Mixture {
    pub(crate) fn mean_us(&self) -> f64 {
        self.parts.iter().map(|(share, latency)| share * latency.mean_us).sum()
    }

    /// Where 99 of 100 reads are done, to a thousandth.
    pub(crate) fn p99_us(&self) -> f64 {
        let within = |us: f64| -> f64 {
            self.parts.iter().map(|(share, latency)| share * latency.share_within(us)).sum()
        };
        let (mut low, mut high) = (1e-3f64, 1e9f64);
        while high / low > 1.001 {
            let middle = (low * high).sqrt();
            if within(middle) < 0.99 { low = middle } else { high = middle }
        }
        high
    }
}

/// Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26: right to 1.5e-7.
fn normal_share_below(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let erf = 1.0 - poly.iter().fold(0.0, |sum, factor| sum * t + factor) * t * (-x * x).exp();
    if z < 0.0 { (1.0 - erf) / 2.0 } else { (1.0 + erf) / 2.0 }
}

/// A device to measure, and which tier it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Probe {
    pub(crate) is_ssd: bool,
    pub(crate) path: PathBuf,
}

impl FromStr for Probe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_ssd, path) = match text.split_once('=') {
            Some(("ssd", path)) => (true, path),
            Some(("disk", path)) => (false, path),
            _ => (false, text),
        };
        if path.is_empty() {
            Err("expected ssd=PATH or disk=PATH".into())
        } else {
            Ok(Self { is_ssd, path: path.into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture(shares: [f64; 3]) -> Mixture {
        let devices = [(2.0, 10.0), (120.0, 500.0), (8000.0, 25_000.0)];
        let part = |(share, (mean_us, p99_us))| (share, Latency::new(mean_us, p99_us));
        let parts: Vec<_> = shares.into_iter().zip(devices).map(part).collect();
        Mixture { parts: [parts[0], parts[1], parts[2]] }
    }

    #[test]
    fn one_device_alone_gives_back_its_mean_and_its_percentile() {
        for (shares, mean_us, p99_us) in [
            ([1.0, 0.0, 0.0], 2.0, 10.0),
            ([0.0, 1.0, 0.0], 120.0, 500.0),
            ([0.0, 0.0, 1.0], 8000.0, 25_000.0),
        ] {
            let mixture = mixture(shares);
            assert!((mixture.mean_us() - mean_us).abs() < 1e-9);
            assert!((mixture.p99_us() / p99_us - 1.0).abs() < 0.01, "{} of {p99_us}", mixture.p99_us());
        }
    }

    #[test]
    fn with_less_than_one_percent_of_reads_from_the_disk_its_tail_is_no_longer_the_percentile() {
        let (some, few) = (mixture([0.5, 0.4, 0.1]).p99_us(), mixture([0.5, 0.495, 0.005]).p99_us());
        assert!(some > 12_000.0 && few < 1_000.0, "{some}, {few}");
    }

    #[test]
    fn latencies_and_probes_are_read_as_people_write_them() {
        assert_eq!("8ms,25ms".parse(), Ok(Latency::new(8000.0, 25_000.0)));
        assert_eq!("100us".parse(), Ok(Latency::new(100.0, 300.0)));
        assert!("8ms,1ms".parse::<Latency>().is_err() && "8".parse::<Latency>().is_err());
        assert_eq!("ssd=/x".parse(), Ok(Probe { is_ssd: true, path: "/x".into() }));
        assert_eq!("/dev/a=b".parse(), Ok(Probe { is_ssd: false, path: "/dev/a=b".into() }));
    }
}
