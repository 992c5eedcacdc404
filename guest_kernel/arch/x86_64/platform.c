/* What the machine is, and its two switches: the ACPI power-off port and the panic device. */
#include "arch.h"
#include "bench.h"
#include "console.h"
#include "console_port.h"
#include "string.h"
#include "uart.h"
#include "xen/store.h"

#define ACPI_CONTROL_PORT 0x604 /* PIIX4 power management: PM1a control */
#define ACPI_SLEEP_ENABLE 0x2000 /* with sleep type 0: soft off */
#define PANIC_PORT 0x505         /* the pvpanic device */
#define PANIC_HAPPENED 1

#define LEAF_FEATURES 1
#define FEATURE_HYPERVISOR (1u << 31) /* in ECX */
#define LEAF_HYPERVISOR 0x40000000

void arch_print_platform(void)
{
    if (!(cpu_cpuid(LEAF_FEATURES).ecx & FEATURE_HYPERVISOR)) {
        kprintf("running on: bare metal\n");
        return;
    }
    struct cpuid r = cpu_cpuid(LEAF_HYPERVISOR);
    const u32 signature[] = {r.ebx, r.ecx, r.edx, 0};
    const char *name = (const char *)signature;
    kprintf("running under: %s%s\n", memcmp(name, "XenVMMXenVMM", 12) ? name : "Xen", xen_hvm_described());
}

void arch_find_hypervisor(void) { xen_hvm_find(); }
void arch_connect_hypervisor(void) { xen_hvm_connect_card(); }

const struct console_port *arch_console_port(void) { return on_xen() ? &xen_console : &uart_console; }

const char *arch_lacks(u64 operation)
{
    if (xen_events() && operation == BENCH_EOI)
        return "an event channel needs no end of interrupt";
    if (!on_xen())
        return NULL;
    switch (operation) {
    case BENCH_CR8WR:
        return "a PV domain has no task priority register";
    case BENCH_PCI_SCAN:
        return "a PV domain has no PCI bus";
    case BENCH_TIMER_CALIBRATION:
        return "a PV domain is told how fast its clock runs";
    }
    return NULL;
}

i64 arch_store(u64 question, const char *path, char *to, u64 size)
{
    return question == STORE_NAMES ? xen_store_list(0, path, "", to, size) : xen_store_read(0, path, "", to, size);
}

bool arch_has_pci(void) { return !on_xen(); }

static __attribute__((noreturn)) void stop(void)
{
    cpu_cli();
    for (;;)
        cpu_hlt();
}

void arch_power_off(void)
{
    if (on_xen())
        xen_shutdown(SHUTDOWN_POWEROFF);
    cpu_outw(ACPI_CONTROL_PORT, ACPI_SLEEP_ENABLE);
    stop();
}

void arch_report_panic(void)
{
    if (on_xen())
        xen_shutdown(SHUTDOWN_CRASH);
    cpu_outb(PANIC_PORT, PANIC_HAPPENED);
    stop();
}
