//! Which columns a page list may have, and what they are called in somebody's own list.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use std::fmt;

/// A column that means something; others are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Column {
    /// The address of the page.
    Loc,
    /// When it last changed.
    Lastmod,
    /// How often it is said to change.
    Changefreq,
    /// Its priority, 0.0 to 1.0.
    Priority,
    /// Whether it may be indexed.
    Index,
    /// Its HTTP status.
    Status,
    /// What kind of page it is, as in `product`.
    Kind,
    /// Its language and region, as in `de` or `pt-BR`.
    Locale,
    /// What its versions in other languages have in common.
    Group,
    /// Its versions in other languages, as JSON.
    Alternates,
    /// Its images, as JSON.
    Images,
    /// Its videos, as JSON.
    Videos,
    /// What makes it a news article, as JSON.
    News,
    /// What it is sorted by, where rows are not by their address.
    SortKey,
}

/// The names of the columns, in the order of [`Column`].
pub const COLUMNS: [&str; 14] = [
    "loc",
    "lastmod",
    "changefreq",
    "priority",
    "index",
    "status",
    "kind",
    "locale",
    "group",
    "alternates",
    "images",
    "videos",
    "news",
    "sort_key",
];

/// Where each column stands in one input, or nowhere.
pub type Places = [Option<usize>; COLUMNS.len()];

/// What the columns are called in the input: as in [`COLUMNS`] where nothing else is said. As settings a table from
/// column to name, as in `loc = "url"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    names: [String; COLUMNS.len()],
}

impl Default for Columns {
    fn default() -> Self {
        Self { names: COLUMNS.map(str::to_owned) }
    }
}

impl Columns {
    /// Says that `column` is called `name` in the input.
    ///
    /// # Errors
    /// Where there is no such column, or the name is empty or another column's.
    pub fn rename(&mut self, column: &str, name: &str) -> Result<(), String> {
        let at = COLUMNS.iter().position(|known| *known == column);
        let at = at.ok_or_else(|| format!("there is no column {column:?}: give one of {}", COLUMNS.join(", ")))?;
        let name = name.trim().to_ascii_lowercase();
        if name.is_empty() {
            return Err(format!("the column {column} has no name: give what it is called in the page list"));
        }
        self.names[at] = name;
        // Who renames to `kind` means that column, not the one that would be called so otherwise.
        for (other, own) in COLUMNS.iter().enumerate() {
            if other != at && self.names[other] == self.names[at] {
                if self.names[other] != *own {
                    return Err(format!("two columns are called {}: {column} and {own}", self.names[at]));
                }
                self.names[other].clear();
            }
        }
        Ok(())
    }

    /// What `column` is called in the input.
    #[must_use]
    pub fn name(&self, column: Column) -> &str {
        &self.names[column as usize]
    }

    /// What all columns are called in the input, in the order of [`COLUMNS`]; nothing where another has taken the name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Which column a name in the input means; letter case and spaces around it do not count.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        let name = name.trim();
        self.names.iter().position(|known| !known.is_empty() && known.eq_ignore_ascii_case(name))
    }

    /// Where the columns stand in a header.
    ///
    /// # Errors
    /// What is wrong, where the column of addresses is missing or one comes twice.
    pub fn places<'a>(&self, header: impl Iterator<Item = &'a str>) -> Result<Places, String> {
        let mut found = [None; COLUMNS.len()];
        let mut names = Vec::new();
        for (at, name) in header.enumerate() {
            let name = name.trim().to_ascii_lowercase();
            if let Some(column) = self.find(&name)
                && found[column].replace(at).is_some()
            {
                return Err(format!("two columns are named {name}: keep one"));
            }
            names.push(name);
        }
        if found[Column::Loc as usize].is_none() {
            let loc = &self.names[Column::Loc as usize];
            let (found, own) = (shown_names(&names), COLUMNS[Column::Loc as usize]);
            return Err(format!("no column is named {loc} (found: {found}): name the column of page addresses {own}"));
        }
        Ok(found)
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Columns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table from column to its name in the page list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
                let mut columns = Columns::default();
                while let Some((column, name)) = map.next_entry::<String, String>()? {
                    columns.rename(&column, &name).map_err(de::Error::custom)?;
                }
                Ok(columns)
            }
        }
        deserializer.deserialize_map(Table)
    }
}

fn shown_names(names: &[String]) -> String {
    let mut shown =
        names.iter().take(12).map(|name| name.chars().take(40).collect()).collect::<Vec<String>>().join(", ");
    if names.len() > 12 {
        shown.push_str(", …");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_renames_and_the_rest_keeps_its_name() {
        let columns: Columns = toml::from_str("loc = \"URL\"\nkind = \"type\"").unwrap();
        let places = columns.places(["type", " Url ", "lastmod", "loc"].into_iter()).unwrap();
        assert_eq!((places[0], places[1], places[6]), (Some(1), Some(2), Some(0)));
        assert_eq!(places.iter().flatten().count(), 3, "what is called loc there is not the address");
        let error = columns.places(["loc"].into_iter()).unwrap_err();
        assert!(error.contains("no column is named url (found: loc)"), "{error}");
    }

    #[test]
    fn a_column_may_take_another_ones_name_but_not_its_place() {
        let columns: Columns = toml::from_str("loc = \"group\"").unwrap();
        assert_eq!((columns.find("group"), columns.find("loc")), (Some(0), None));
        for (bad, said) in [
            ("address = \"x\"", "no column \"address\""),
            ("loc = \" \"", "no name"),
            ("loc = \"x\"\nkind = \"x\"", "two columns are called x"),
        ] {
            let error = toml::from_str::<Columns>(bad).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_names_are_in_the_order_of_the_columns() {
        assert_eq!(COLUMNS[Column::Status as usize], "status");
        assert_eq!(COLUMNS[Column::News as usize], "news");
        assert_eq!(COLUMNS[Column::SortKey as usize], "sort_key");
        assert_eq!(COLUMNS.len(), Column::SortKey as usize + 1);
    }
}
