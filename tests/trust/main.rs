//! One small proof for each rule that keeps data whole, and for each way in which caches have lost or invented some.
//!
//! `rules` has the nine rules of trust, `ways` the situations in which other caches broke them. Each test is direct: it
//! makes the situation on simulated devices and looks at what callers get. The sweeps go further, and are named here
//! beside each test where there is one.
//!
//! | rule                                     | test in `rules`                                                          | also |
//! |------------------------------------------|--------------------------------------------------------------------------|------|
//! | void first                               | `newer_bytes_wait_until_the_older_copy_on_the_ssd_is_void_durably`       | `tests/faults.rs`, `tests/crash_sweep` |
//! | dirty copies stay for their successors   | `a_dirty_copy_stays_until_what_was_written_over_it_is_durable`           | `tests/crash_sweep` |
//! | unsynced is not clean                    | `what_was_read_after_a_crash_never_turns_into_something_older`           | `tests/crash_sweep` |
//! | the same, of what a sync was too early for | `what_reached_the_disk_after_a_sync_had_begun_does_not_outlive_a_crash_as_synced` | |
//! | the same, of zeros                       | `zeros_of_a_discard_that_is_not_below_do_not_go_to_the_ssd`              | |
//! | no copy outlives its successor           | `segments_that_are_used_again_bring_nothing_back_wherever_the_power_fails` | `tiers/ssd/tests/dirty.rs` |
//! | the same, in a log that is not empty     | `a_segment_that_something_holds_hides_nothing_newer_behind_it_wherever_the_power_fails` | |
//! | torn is forgotten, flushed is not        | `a_torn_record_is_forgotten_and_what_was_flushed_before_it_is_read`      | `tests/crash_sweep` |
//! | plan, then check                         | `a_fill_that_was_planned_before_a_write_or_a_discard_changes_neither`    | `tests/schedules.rs` |
//! | frames wait for the sync                 | `blocks_of_a_sync_that_failed_are_written_again_before_the_next_one`     | `tests/faults.rs` |
//! | a returning SSD is not believed          | `an_ssd_that_was_switched_off_comes_back_with_nothing_that_is_older`     | `tests/faults.rs` |
//! | cold means clean copies only             | `a_store_that_changed_while_it_was_away_loses_clean_copies_and_keeps_dirty_ones` | `tests/volumes` |
//!
//! | the way data was lost, or worse               | test in `ways`                                                                 |
//! |-----------------------------------------------|--------------------------------------------------------------------------------|
//! | a fill races a write around the cache         | `a_read_that_races_a_write_around_installs_no_old_bytes`                        |
//! | a dirty mark that was a hint                  | `what_is_dirty_after_a_crash_is_what_the_log_says_and_nothing_less`             |
//! | a flush before its writes had ended           | `a_flush_waits_for_the_writes_under_way_before_it_syncs`                        |
//! | metadata read before the last owner ended     | `a_cache_file_is_refused_until_its_owner_has_ended_and_whole_after_it`          |
//! | 32 bits of offset                             | `blocks_of_a_volume_of_8_tib_that_differ_above_32_bits_stay_apart`              |
//! | a log position lost over a restart            | `a_log_reopened_and_appended_to_at_every_page_keeps_all_of_it`                  |
//! | a scan that runs into older generations       | `a_log_that_went_round_many_times_replays_only_its_newest_generation`           |
//! | space reused under a reader                   | `a_read_overtaken_by_the_reuse_of_its_segment_gets_the_right_bytes`             |
//! | buffers that change under I/O, or are believed after a failure | `no_buffer_changes_while_a_device_writes_it_and_none_that_failed_is_believed` |
//! | a mode changed after an unclean stop          | `after_a_crash_no_other_mode_begins_before_the_log_is_drained`                  |
//! | adaptation with the state after the move      | `the_policy_adapts_before_the_block_moves`                                      |
//! | two overwrites without a sync between them    | `two_overwrites_without_a_sync_between_them_leave_one_of_the_three_whole`       |
//! | what overflows a queue is dropped in silence  | `what_the_ssd_cannot_take_is_counted_when_clean_and_waited_for_when_dirty`      |
//! | write-back that starves readers               | `reads_are_answered_while_every_write_below_hangs`                              |
//! | a cache that stands still when all of it is dirty | `reads_are_answered_while_nothing_more_may_be_dirty`                       |
//! | a cleaner that waits until nobody asks        | `write_back_goes_on_beside_readers_that_never_pause`                            |
//! | the same, and a lane that is never idle       | `write_back_goes_on_while_a_read_hangs`                                         |
//! | what cannot be read counts as gone            | `a_dirty_copy_that_could_not_be_read_once_is_an_error_and_neither_gone_nor_stuck` |
//! | a size that is enforced by looking at times   | `a_cache_file_has_its_size_from_the_start_and_keeps_it`                         |
//! | memory without a bound                        | `ram_holds_no_more_than_it_was_given_and_the_index_no_more_than_20_bytes_a_block` |
//! | an empty range                                | `empty_reads_writes_discards_and_forgets_do_nothing_anywhere`                   |
//! | a crash while something is managed            | `the_power_may_fail_in_every_step_of_attaching_switching_detaching_and_closing` |
//! | identity by hash alone                        | `copies_that_changed_places_on_the_ssd_are_never_taken_for_each_other`          |
//! | the order of leaving forgotten at a restart   | `blocks_that_were_hit_outlive_the_others_also_over_a_restart`                   |

#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod rules;
mod ways;
mod world;
