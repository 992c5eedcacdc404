/* The firmware: from reset to the kernel, which it finds through fw_cfg. It reads as a table of contents.
   Simplified: no 16-bit phase, no services for whoever comes after (no BIOS calls, no ACPI), no boot menu. */
#include "firmware.h"

void firmware(void)
{
    struct memory memory;

    serial_init();
    say("hv firmware: ");
    init_interrupt_controllers();
    init_timer();
    init_local_apic();
    find_memory(&memory);
    say_number((u32)((memory.low + memory.high) / MIB));
    say(" MiB, ");
    u32 cpus = count_cpus();
    say_number(cpus);
    say(" CPU, ");
    say_number(calibrate_tsc());
    say(" MHz, ");
    say_number(init_pci());
    say(" PCI functions\r\n");
    write_mp_table(cpus);
    u32 entry = load_kernel(&memory);
    enter(entry, write_start_info(&memory));
}
