//! The quickstart does what it says, and is as short as promised.

use std::{env, path::PathBuf, process::Command};

/// Runs the example as cargo has built it beside this test.
#[test]
fn the_honest_source_answers() {
    let test = env::current_exe().expect("a test knows where it is");
    let deps = test.parent().expect("a file is in a directory");
    let mut program: PathBuf = deps
        .parent()
        .expect("deps is in the profile's directory")
        .into();
    program.push("examples");
    program.push(format!("quickstart{}", env::consts::EXE_SUFFIX));
    let output = Command::new(&program)
        .output()
        .expect("cargo builds examples with the tests");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).expect("the example prints text");
    assert_eq!(said, "source 3 answered: Northern gannet\n");
}

#[test]
fn it_is_short() {
    assert!(include_str!("../examples/quickstart.rs").lines().count() < 60);
}
