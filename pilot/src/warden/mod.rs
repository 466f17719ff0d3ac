//! The process that undoes what a killed pilot left.
