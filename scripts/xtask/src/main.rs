//! Tasks. 
fn main(){}
