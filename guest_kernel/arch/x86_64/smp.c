/* The other CPUs of the machine: found in the firmware's MP table (Intel MultiProcessor Specification 1.4), started by
   INIT and start-up messages (the same, appendix B.4).
   Simplified: no delays between the messages, which processors of this century do without. */
#include "apic.h"
#include "arch.h"
#include "console.h"
#include "cpus.h"
#include "process.h"
#include "segments.h"
#include "string.h"
#include "traps.h"

struct mp_pointer {
    char signature[4]; /* "_MP_" */
    u32 table;         /* physical address */
    u8 length;         /* of this structure, in units of 16 bytes */
    u8 revision;
    u8 checksum; /* makes the sum of all bytes 0 */
    u8 features[5];
};

struct mp_table {
    char signature[4]; /* "PCMP" */
    u16 length;
    u8 revision;
    u8 checksum;
    char names[20];
    u32 oem_table;
    u16 oem_size;
    u16 entries;
    u32 local_apic;
    u16 extended_length;
    u8 extended_checksum;
    u8 reserved;
};

struct mp_processor {
    u8 type;
    u8 apic_id;
    u8 apic_version;
    u8 flags;
};

#define MP_PROCESSOR 0
#define MP_PROCESSOR_SIZE 20
#define MP_OTHER_SIZE 8
#define MP_ENABLED 1
#define MP_BOOT_CPU 2

#define EBDA_SEGMENT 0x40E /* the BIOS keeps it there */
#define BASE_MEMORY_END 0xA0000
#define BIOS_START 0xF0000
#define BIOS_END 0x100000
#define KIB 1024

#define START_TRIES 2       /* the specification's: one start-up message may be lost */
#define START_POLLS 1000000 /* then it does not start */

static u8 apic_ids[MAX_CPUS];
u64 secondary_stack; /* boot.S gives it to the CPU that starts */
static u8 stacks[MAX_CPUS][KERNEL_STACK_SIZE] __attribute__((aligned(16)));
static volatile u32 starting; /* number of that CPU */

extern char trampoline_start[], trampoline_end[];

static bool sums_to_zero(const void *start, u64 length)
{
    u8 sum = 0;
    for (u64 i = 0; i < length; i++)
        sum = (u8)(sum + ((const u8 *)start)[i]);
    return sum == 0;
}

static const struct mp_pointer *find_pointer(u64 start, u64 end)
{
    for (u64 at = start; at < end; at += sizeof(struct mp_pointer)) {
        const struct mp_pointer *pointer = phys_to_virt(at);
        if (!memcmp(pointer->signature, "_MP_", 4) && sums_to_zero(pointer, sizeof *pointer))
            return pointer;
    }
    return NULL;
}

/* Where the specification says: the first KiB of the extended BIOS data area, or else the BIOS. */
static const struct mp_table *find_table(void)
{
    u64 ebda = *(const u16 *)phys_to_virt(EBDA_SEGMENT) * 16ul;
    const struct mp_pointer *pointer = NULL;
    if (ebda && ebda + KIB <= BASE_MEMORY_END)
        pointer = find_pointer(ebda, ebda + KIB);
    if (!pointer)
        pointer = find_pointer(BIOS_START, BIOS_END);
    if (!pointer || !pointer->table)
        return NULL;
    const struct mp_table *table = phys_to_virt(pointer->table);
    return !memcmp(table->signature, "PCMP", 4) && sums_to_zero(table, table->length) ? table : NULL;
}

/* Before arch_paging_init, because the table is not in RAM that the kernel maps. */
void arch_find_cpus(void)
{
    if (on_xen()) {
        xen_find_cpus();
        return;
    }
    const struct mp_table *table = find_table();
    const u8 *at = (const u8 *)(table + 1);
    cpu_count = 1;
    for (u32 i = 0; table && i < table->entries; i++) {
        const struct mp_processor *processor = (const void *)at;
        if (processor->type != MP_PROCESSOR) {
            at += MP_OTHER_SIZE;
            continue;
        }
        if (processor->flags & MP_BOOT_CPU)
            apic_ids[0] = processor->apic_id;
        else if (processor->flags & MP_ENABLED && cpu_count < MAX_CPUS)
            apic_ids[cpu_count++] = processor->apic_id;
        at += MP_PROCESSOR_SIZE;
    }
}

void arch_send_call(u32 cpu)
{
    if (xen_events())
        xen_send_call(cpu);
    else
        apic_send(apic_ids[cpu], VECTOR_CALL);
}

/* Called by boot.S on the CPU that starts, with interrupts off. */
void secondary_main(void)
{
    segments_init(starting);
    arch_space_load_kernel();
    traps_load();
    apic_init();
    cpu_started();
}

static bool start(u32 cpu)
{
    secondary_stack = (u64)stacks[cpu] + sizeof stacks[cpu];
    starting = cpu;
    if (xen_events())
        xen_bind_call(cpu);
    apic_send(apic_ids[cpu], APIC_INIT);
    for (int try = 0; try < START_TRIES && !cpus[cpu].online; try++) {
        apic_send(apic_ids[cpu], APIC_STARTUP | TRAMPOLINE / PAGE_SIZE);
        for (u64 i = 0; i < START_POLLS && !cpus[cpu].online; i++)
            arch_pause();
    }
    return cpus[cpu].online;
}

void arch_start_cpus(void)
{
    if (on_xen()) {
        xen_start_cpus();
        return;
    }
    memcpy(phys_to_virt(TRAMPOLINE), trampoline_start, (u64)(trampoline_end - trampoline_start));
    for (u32 cpu = 1; cpu < cpu_count; cpu++)
        if (!start(cpu))
            kprintf("CPU %u does not start\n", cpu);
}
