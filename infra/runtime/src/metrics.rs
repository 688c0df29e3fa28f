//! Metrics as CloudWatch embedded metric format (EMF): JSON lines on stdout that CloudWatch turns into metrics.
//!
//! Format: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use serde_json::{Map, Value, json};

/// The CloudWatch namespace of every metric.
pub const NAMESPACE: &str = "Tidemark";
/// Most values of one metric in one line, by the format.
pub const VALUES_MAX: usize = 100;
/// Most metrics in one line, by the format.
pub const METRICS_MAX: usize = 100;

/// A metric's unit, by CloudWatch's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain count.
    Count,
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Count => "Count",
            Unit::Milliseconds => "Milliseconds",
            Unit::Bytes => "Bytes",
        }
    }
}

/// One metric: its name, its unit, and what was measured. Several values are one sample each, so that CloudWatch knows
/// their number, maximum and percentiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    name: &'static str,
    unit: Unit,
    values: Vec<f64>,
}

impl Metric {
    /// A metric with one value.
    #[must_use]
    pub fn one(name: &'static str, unit: Unit, value: f64) -> Self {
        Self { name, unit, values: vec![value] }
    }

    /// A count.
    #[must_use]
    pub fn count(name: &'static str, value: u64) -> Self {
        Self::one(name, Unit::Count, value as f64)
    }

    /// A metric with a value for each sample; without any it is left out.
    #[must_use]
    pub fn samples(name: &'static str, unit: Unit, values: Vec<f64>) -> Self {
        Self { name, unit, values }
    }
}

/// The EMF lines of some metrics that share `dimensions` and lie in `now_ms`, milliseconds since the epoch. It is one
/// line, unless a metric has more than [`VALUES_MAX`] values or there are more than [`METRICS_MAX`] metrics.
/// `properties` stand in each line beside the metrics, for whoever searches the logs; they cost no metric.
#[must_use]
pub fn lines(
    now_ms: i64,
    dimensions: &[(&str, &str)],
    metrics: &[Metric],
    properties: &Map<String, Value>,
) -> Vec<String> {
    let rounds = metrics.iter().map(|metric| metric.values.len().div_ceil(VALUES_MAX)).max().unwrap_or(0);
    let mut lines = Vec::new();
    for round in 0..rounds {
        let in_round = |metric: &Metric| {
            metric.values.chunks(VALUES_MAX).nth(round).map(|values| (metric.name, metric.unit, values.to_vec()))
        };
        let present: Vec<(&str, Unit, Vec<f64>)> = metrics.iter().filter_map(in_round).collect();
        lines.extend(present.chunks(METRICS_MAX).map(|some| line(now_ms, dimensions, some, properties)));
    }
    lines
}

fn line(
    now_ms: i64,
    dimensions: &[(&str, &str)],
    metrics: &[(&str, Unit, Vec<f64>)],
    properties: &Map<String, Value>,
) -> String {
    let mut fields = properties.clone();
    for (name, value) in dimensions {
        fields.insert((*name).to_owned(), json!(value));
    }
    for (name, _, values) in metrics {
        let value = if let [value] = values[..] { json!(value) } else { json!(values) };
        fields.insert((*name).to_owned(), value);
    }
    let names: Vec<Value> = metrics.iter().map(|(name, unit, _)| json!({"Name": name, "Unit": unit.name()})).collect();
    let dimension_names: Vec<&str> = dimensions.iter().map(|(name, _)| *name).collect();
    fields.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": now_ms,
            "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [dimension_names], "Metrics": names}],
        }),
    );
    Value::Object(fields).to_string()
}

/// Prints the EMF lines of some metrics to stdout.
#[expect(clippy::print_stdout, reason = "stdout is where CloudWatch reads metrics, and what tests capture")]
pub fn emit(now_ms: i64, dimensions: &[(&str, &str)], metrics: &[Metric], properties: &Map<String, Value>) {
    for line in lines(now_ms, dimensions, metrics, properties) {
        println!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(metrics: &[Metric]) -> Vec<Value> {
        let properties = Map::from_iter([("slowest".to_owned(), json!({"7": 12}))]);
        let lines = lines(1_763_800_000_000, &[("region", "us-east-1")], metrics, &properties);
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_names_its_dimensions_units_and_values() {
        let metrics = [
            Metric::one("lag_ms_max", Unit::Milliseconds, 12.0),
            Metric::samples("chunk_ms", Unit::Milliseconds, vec![1.0, 2.0]),
            Metric::samples("nothing", Unit::Bytes, Vec::new()),
        ];
        let [line] = &parsed(&metrics)[..] else { panic!("one line") };
        assert_eq!((&line["lag_ms_max"], &line["chunk_ms"]), (&json!(12.0), &json!([1.0, 2.0])));
        assert_eq!((&line["region"], &line["slowest"]["7"]), (&json!("us-east-1"), &json!(12)));
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Dimensions"], json!([["region"]]));
        let names = json!([
            {"Name": "lag_ms_max", "Unit": "Milliseconds"},
            {"Name": "chunk_ms", "Unit": "Milliseconds"},
        ]);
        assert_eq!(directive["Metrics"], names);
    }

    #[test]
    fn more_values_than_a_line_may_hold_become_more_lines_and_none_is_lost() {
        let values: Vec<f64> = (0..=2 * VALUES_MAX).map(|value| value as f64).collect();
        let metrics = [Metric::count("records", 7), Metric::samples("chunk_ms", Unit::Milliseconds, values)];
        let lines = parsed(&metrics);
        let of = |line: &Value| line["chunk_ms"].as_array().map_or(1, Vec::len);
        assert_eq!(lines.iter().map(of).collect::<Vec<_>>(), [VALUES_MAX, VALUES_MAX, 1]);
        let counted: Vec<&Value> = lines.iter().filter(|line| line["records"].is_number()).collect();
        assert_eq!(counted.len(), 1, "a count is counted once");
    }
}
