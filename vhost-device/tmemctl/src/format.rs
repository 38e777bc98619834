// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers as people read them.

/// A size: `0 B`, `4.0 KiB`, `1.5 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(
        bytes,
        1024,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
    )
}

/// A time: `850 ns`, `1.2 µs`, `3.4 ms`, `12.0 s`.
pub(crate) fn nanoseconds(ns: u64) -> String {
    scaled(ns, 1000, &["ns", "µs", "ms", "s"])
}

/// A bandwidth: `25.0 Gbit/s`.
pub(crate) fn bits_per_second(bits: u64) -> String {
    scaled(
        bits,
        1000,
        &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"],
    )
}

/// `value` in the largest unit that it fills, to a tenth; exact in the smallest.
fn scaled(value: u64, base: u64, units: &[&str]) -> String {
    let mut scale = 1;
    let mut at = 0;
    // The second test keeps 1023.96 KiB from becoming "1024.0 KiB".
    while at + 1 < units.len()
        && u128::from(value) * 20 >= u128::from(scale) * u128::from(base * 20 - 1)
        && (at > 0 || value >= base)
    {
        scale *= base;
        at += 1;
    }
    if at == 0 {
        return format!("{value} {}", units[0]);
    }
    let tenths = (u128::from(value) * 10 + u128::from(scale / 2)) / u128::from(scale);
    format!("{}.{} {}", tenths / 10, tenths % 10, units[at])
}

/// How long something has been up: its two largest units.
pub(crate) fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `count` a second over `ns` nanoseconds, rounded; a tenth is kept below 10.
pub(crate) fn per_second(count: u64, ns: u64) -> String {
    if ns == 0 {
        return "-".into();
    }
    let tenths = (u128::from(count) * 10_000_000_000 + u128::from(ns / 2)) / u128::from(ns);
    if tenths == 0 {
        "0".into()
    } else if tenths < 100 {
        format!("{}.{}", tenths / 10, tenths % 10)
    } else {
        ((tenths + 5) / 10).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_they_fill() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1_000_000, "976.6 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (value, text) in cases {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn times_are_shown_in_the_largest_unit_that_they_fill() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1000, "1.0 µs"),
            (25_349, "25.3 µs"),
        ];
        for (value, text) in cases {
            assert_eq!(nanoseconds(value), text);
        }
        assert_eq!(nanoseconds(999_960), "1.0 ms");
        assert_eq!(
            nanoseconds(3_600_000_000_000),
            "3600.0 s",
            "seconds are the last unit"
        );
    }

    #[test]
    fn uptime_shows_its_two_largest_units() {
        let cases = [
            (5, "5 s"),
            (65, "1 min 5 s"),
            (7260, "2 h 1 min"),
            (93_784, "1 d 2 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(uptime(seconds), text);
        }
    }

    #[test]
    fn rates_are_rounded_and_never_divide_by_zero() {
        assert_eq!(per_second(10, 0), "-");
        assert_eq!(per_second(0, 5), "0");
        assert_eq!(per_second(5, 2_000_000_000), "2.5");
        assert_eq!(per_second(1999, 2_000_000_000), "1000");
        assert_eq!(per_second(u64::MAX, 1_000_000_000), u64::MAX.to_string());
    }
}
