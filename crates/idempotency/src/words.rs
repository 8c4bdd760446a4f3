//! Durations, sizes and times, as people read and write them.

use crate::record::Micros;

const SECOND: Micros = 1_000_000;

/// The two largest units of a duration: `3m 12s`.
pub(crate) fn duration(micros: Micros) -> String {
    let seconds = micros / SECOND;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10 => format!("{:.1}s", micros as f64 / SECOND as f64),
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Reads `90`, `90s`, `10m`, `2h`, `1d` or `500ms`.
#[cfg(feature = "cli")]
pub(crate) fn read_duration(text: &str) -> Result<Micros, String> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.').len();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1_000,
        "" | "s" => SECOND,
        "m" | "min" => 60 * SECOND,
        "h" => 3600 * SECOND,
        "d" => 86_400 * SECOND,
        _ => return Err("write 90s, 10m, 2h or 1d".into()),
    };
    let number: f64 = number.parse().map_err(|_| "write 90s, 10m, 2h or 1d".to_owned())?;
    Ok((number * unit as f64) as Micros)
}

/// `512 B`, `1.5 kB`, `2.0 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if amount < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") };
        }
        amount /= 1000.0;
    }
    format!("{amount:.1} TB")
}

/// With commas: `1,234,567`.
#[cfg(feature = "cli")]
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|part| std::str::from_utf8(part).unwrap_or("")).collect();
    parts.join(",")
}

/// A point in time as RFC 3339 has it, in UTC.
pub(crate) fn time(at: Micros) -> String {
    let (seconds, micros) = (at / SECOND, at % SECOND);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, in eras of 400 years (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written() {
        let read = ["90", "90s", "10m", "2h", "1d", "500ms", "1.5h"].map(|text| read_duration(text).unwrap() / 1000);
        assert_eq!(read, [90_000, 90_000, 600_000, 7_200_000, 86_400_000, 500, 5_400_000]);
        assert!(["", "m", "10 m", "-1s", "1w"].iter().all(|text| read_duration(text).is_err()));
        let durations = [300_000, 42 * SECOND, 192 * SECOND, 7260 * SECOND, 90_000 * SECOND];
        assert_eq!(durations.map(duration), ["0.3s", "42s", "3m 12s", "2h 1m", "1d 1h"]);
        assert_eq!([512, 1500, 2_000_000].map(bytes), ["512 B", "1.5 kB", "2.0 MB"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(951_782_400_000_000), "2000-02-29T00:00:00.000000Z");
        assert_eq!(time(1_764_563_696_000_042), "2025-12-01T04:34:56.000042Z");
    }
}
