//! Parts of the index are lent to be filled, and everything else goes on.

use super::super::*;
use super::driver::{Driver, checkpoint};
use super::scan::{Left, crash};

/// A file of which every summary is read, what is free first, and nothing installed.
fn read_all() -> (Driver, u64) {
    let left = Left::after(|driver| {
        let device = driver.device.as_ref().expect("not simulated");
        assert!(checkpoint(&mut driver.ssd, device, false));
    });
    let numbers = left.numbers;
    let mut driver = left.open();
    while let Some(plan) = driver.ssd.plan_scan() {
        driver.scanned.push(plan.run(driver.device()));
    }
    let finds = driver.scanned.iter().filter(|scanned| scanned.news.iter().any(|news| !news.is_empty()));
    assert!(finds.count() > 3, "several plans find something");
    (driver, numbers)
}

fn lent(driver: &Driver, numbers: u64) -> Vec<u64> {
    (0..numbers).filter(|&number| driver.ssd.index.is_lent(driver.block(number))).collect()
}

#[test]
fn what_is_written_while_its_part_is_lent_is_not_found_when_that_is_back_nor_after_a_crash() {
    let (mut driver, numbers) = read_all();
    // Some of the part are in it already, and some are brought by who has it.
    let half = driver.scanned.len() / 2;
    let late = driver.scanned.split_off(half);
    std::mem::replace(&mut driver.scanned, late).into_iter().for_each(|some| driver.ssd.finish_scan(some));
    while driver.installs.is_empty() {
        driver.lend(0);
    }
    let lent = lent(&driver, numbers);
    assert!(lent.len() >= 4 && (lent.len() as u64) < numbers, "one of several parts is lent");
    let version = driver.ssd.first_version().next();
    let (written, marked, discarded, in_range) = (lent[0], lent[1], lent[2], lent[lent.len() - 1]);
    assert!(driver.ssd.void(driver.block(written), version, VoidMark::Exact), "the write below has to wait");
    assert!(driver.ssd.void(driver.block(marked), version, VoidMark::Region), "this one too");
    driver.ssd.void_range(driver.block(discarded), 1, version);
    driver.ssd.void_range(driver.block(in_range), 1 << 30, version);
    assert!(!driver.ssd.contains(driver.block(written)), "nothing is found in it");
    driver.finish_scan();
    let gone = [written, marked, discarded];
    let is_gone = |number: u64| gone.contains(&number) || number >= in_range;
    for number in 0..numbers {
        assert_eq!(driver.ssd.contains(driver.block(number)), !is_gone(number), "block {number}");
    }
    assert!(driver.settle_journal());
    let again = crash(&driver);
    assert!((0..numbers).all(|number| !is_gone(number) || !again.ssd.contains(again.block(number))));
}

#[test]
fn a_volume_that_becomes_cold_while_parts_are_lent_has_nothing_when_they_are_back() {
    let (mut driver, numbers) = read_all();
    while driver.installs.len() < 3 {
        driver.lend(0);
    }
    assert!(!lent(&driver, numbers).is_empty());
    driver.ssd.cool(driver.volume);
    driver.finish_scan();
    assert_eq!(driver.ssd.stats().cached_blocks, 0);
}

#[test]
fn a_part_with_an_append_under_way_is_not_lent_and_nothing_is_demoted_to_one_that_is() {
    let (mut driver, numbers) = read_all();
    let version = driver.ssd.first_version();
    // What is free is known first.
    let first = driver.scanned.remove(0);
    driver.ssd.finish_scan(first);
    let new = driver.block(numbers);
    let Demote::Append(plan) = driver.ssd.plan_demote(new, version, true, 0) else { panic!("there is room") };
    let mut refused = 0;
    while !driver.scanned.is_empty() {
        driver.lend(0);
        assert!(!driver.ssd.index.is_lent(new), "its append is not finished");
        if let Some(&number) = lent(&driver, 4 * numbers).iter().find(|&&number| number > numbers) {
            let demote = driver.ssd.plan_demote(driver.block(number), version, true, 0);
            assert_eq!(demote, Demote::Refused(Refusal::Scanning));
            refused += 1;
        }
        driver.installs.drain(..).for_each(|install| driver.ssd.finish_install(install));
    }
    assert!(refused > 0 && driver.ssd.stats().refused_scanning == refused);
    assert!(!driver.ssd.is_scanning(), "those of that part came in nevertheless");
    let seal = driver.ssd.finish_append(&[plan], Some(&[7]));
    assert!(seal.is_none() && driver.ssd.contains(new));
    assert!((0..numbers).all(|number| driver.ssd.contains(driver.block(number))));
}

#[test]
fn what_two_found_for_one_part_is_all_there_when_that_is_back() {
    let (mut driver, numbers) = read_all();
    let mut late = driver.scanned.remove(0);
    let mut install = loop {
        if let Some(install) = driver.ssd.plan_install(&mut late) {
            break install;
        }
        late = driver.scanned.remove(0);
    };
    let others = std::mem::take(&mut driver.scanned);
    others.into_iter().for_each(|scanned| driver.ssd.finish_scan(scanned));
    // The first of them goes on with other parts, while the others are through and left their blocks for it.
    loop {
        install.run();
        driver.ssd.finish_install(install);
        assert!(driver.ssd.is_scanning(), "not all of it is installed");
        match driver.ssd.plan_install(&mut late) {
            Some(more) => install = more,
            None => break,
        }
    }
    assert!(!driver.ssd.is_scanning());
    assert!((0..numbers).all(|number| driver.ssd.contains(driver.block(number))));
}
