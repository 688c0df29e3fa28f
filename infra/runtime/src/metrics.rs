//! Metrics as CloudWatch embedded metric format (EMF): JSON lines on stdout that CloudWatch turns into metrics.
//!
//! Format: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use serde_json::{Map, Value, json};

/// The CloudWatch namespace of every metric.
pub const NAMESPACE: &str = "Tidemark";

/// A metric's unit, by CloudWatch's names.
#[derive(Clone, Copy, Debug)]
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

/// One EMF line: `dimensions` are those that every metric in it shares.
#[must_use]
pub fn line(now_ms: i64, dimensions: &[(&str, &str)], metrics: &[(&str, Unit, f64)]) -> String {
    let mut fields = Map::new();
    for (name, value) in dimensions {
        fields.insert((*name).to_owned(), json!(value));
    }
    for (name, _, value) in metrics {
        fields.insert((*name).to_owned(), json!(value));
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

/// Prints one EMF line to stdout.
#[expect(clippy::print_stdout, reason = "stdout is where CloudWatch reads metrics, and what tests capture")]
pub fn emit(now_ms: i64, dimensions: &[(&str, &str)], metrics: &[(&str, Unit, f64)]) {
    println!("{}", line(now_ms, dimensions, metrics));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_dimensions_units_and_values() {
        let parsed: Value = serde_json::from_str(&line(
            1_763_800_000_000,
            &[("region", "us-east-1")],
            &[("lag_ms_max", Unit::Milliseconds, 12.0)],
        ))
        .unwrap();
        assert_eq!(parsed["lag_ms_max"], 12.0);
        assert_eq!(parsed["region"], "us-east-1");
        let directive = &parsed["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Dimensions"], json!([["region"]]));
        assert_eq!(directive["Metrics"], json!([{"Name": "lag_ms_max", "Unit": "Milliseconds"}]));
    }
}
