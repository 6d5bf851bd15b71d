//! A fake upstream and a load driver.
