//! A row of either family, read by the names of its columns.

use sqlx::Error;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

/// # Errors
/// All of them: the column is missing, or of another kind.
pub trait Columns {
    fn number(&self, column: &'static str) -> Result<i64, Error>;
    fn maybe_number(&self, column: &'static str) -> Result<Option<i64>, Error>;
    fn text(&self, column: &'static str) -> Result<String, Error>;
    fn maybe_text(&self, column: &'static str) -> Result<Option<String>, Error>;
    fn flag(&self, column: &'static str) -> Result<bool, Error>;
}

macro_rules! columns_of {
    ($row:ty) => {
        impl Columns for $row {
            fn number(&self, column: &'static str) -> Result<i64, Error> {
                self.try_get(column)
            }

            fn maybe_number(&self, column: &'static str) -> Result<Option<i64>, Error> {
                self.try_get(column)
            }

            fn text(&self, column: &'static str) -> Result<String, Error> {
                self.try_get(column)
            }

            fn maybe_text(&self, column: &'static str) -> Result<Option<String>, Error> {
                self.try_get(column)
            }

            fn flag(&self, column: &'static str) -> Result<bool, Error> {
                self.try_get(column)
            }
        }
    };
}

columns_of!(SqliteRow);
columns_of!(PgRow);
