/* The virtual local APIC of a guest, as far as it must be fast. virtual_apic.py has all of it, and explains it.
 *
 * A part of microcode.c. Both files work on the same state: the virtual-APIC page and the descriptor of posted
 * interrupts in memory, and the guest interrupt status and the EOI-exit bitmap in the hypervisor's VMCB. Section numbers
 * are those of the Intel SDM, vol. 3, chapter 30.
 */
enum { APIC_TPR = 0x080, APIC_PPR = 0x0a0, APIC_EOI = 0x0b0, APIC_ISR = 0x100, APIC_IRR = 0x200, APIC_ICR_HIGH = 0x310 };
enum { VMCB_RVI = 0x380, VMCB_SVI = 0x381, VMCB_NOTIFICATION = 0x382, VMCB_EOI_EXIT = 0x388 };
enum { EXIT_APIC_ACCESS = 0x402, EXIT_VIRTUAL_EOI = 0x502, ACCESS_WRITE = 1 << 12 };
enum { RFLAGS_IF = 1 << 9, HF_INHIBIT_IRQ = 1 << 3, DESCRIPTOR_CONTROL = 4, DESCRIPTOR_ON = 1, DESCRIPTOR_SN = 2 };
#define EVENT_VALID (1u << 31)
/* The registers whose reads and writes are virtualized (30.4.2, 30.4.3.1): a bit each, by offset / 16. */
static const u64 APIC_READS = 0x41ff01ffffffe90c, APIC_WRITES = 0x41ff01000000e904;

static uint8_t *in_vmcb(struct microcode *m, unsigned offset) { return (uint8_t *)m->vmcb + offset; }
static u32 *apic_register(struct microcode *m, unsigned offset) { return m->virtual_apic + offset / 4; }

static void set_bit(struct microcode *m, unsigned set, unsigned vector, int value)
{
    u32 *word = apic_register(m, set + vector / 32 * 16);
    *word = (*word & ~(1u << vector % 32)) | (u32)value << vector % 32;
}

/* The highest vector of ISR or IRR; 0 when there is none. */
static unsigned highest(struct microcode *m, unsigned set)
{
    for (int word = 7; word >= 0; word--) {
        u32 bits = *apic_register(m, set + 16 * (unsigned)word);
        if (bits)
            return (unsigned)word * 32 + 31 - (unsigned)__builtin_clz(bits);
    }
    return 0;
}

/* PPR virtualization (30.1.3), then evaluation of pending virtual interrupts (30.2.1). */
static void evaluate(struct microcode *m)
{
    unsigned tpr = *apic_register(m, APIC_TPR) & 0xff, svi = *in_vmcb(m, VMCB_SVI);
    unsigned ppr = tpr >> 4 >= svi >> 4 ? tpr : svi & 0xf0;
    *apic_register(m, APIC_PPR) = ppr;
    m->recognized = *in_vmcb(m, VMCB_RVI) >> 4 > ppr >> 4;
    set_stop(m);
}

/* Something that the hypervisor hears of when the instruction is over. */
static void trap_later(struct microcode *m, u64 code, u64 info)
{
    m->trap = code;
    m->trap_info = info;
    m->stop = m->retired;
}

/* EOI virtualization (30.1.4). */
static void end_of_interrupt(struct microcode *m)
{
    unsigned vector = *in_vmcb(m, VMCB_SVI);
    *apic_register(m, APIC_EOI) = 0;
    set_bit(m, APIC_ISR, vector, 0);
    *in_vmcb(m, VMCB_SVI) = (uint8_t)highest(m, APIC_ISR);
    evaluate(m);
    if (*in_vmcb(m, VMCB_EOI_EXIT + vector / 8) >> vector % 8 & 1)
        trap_later(m, EXIT_VIRTUAL_EOI, vector);
}

/* Virtual-interrupt delivery (30.2.2): before an instruction, in a guest that takes interrupts. Does not return. */
static void deliver_virtual(struct microcode *m)
{
    unsigned vector = *in_vmcb(m, VMCB_RVI);
    set_bit(m, APIC_ISR, vector, 1);
    set_bit(m, APIC_IRR, vector, 0);
    *in_vmcb(m, VMCB_SVI) = (uint8_t)vector;
    *in_vmcb(m, VMCB_RVI) = (uint8_t)highest(m, APIC_IRR);
    *apic_register(m, APIC_PPR) = vector & 0xf0;
    m->recognized = 0;
    m->pc = ~0ull;
    m->delivering = vector * 8 + 3;
    charge(m, EV_VIRTUAL_INTERRUPT);
    *m->eventinj = vector | EVENT_VALID;                /* Unicorn would note an exception, for an exit on the way */
    m->hardware_interrupt(m->env, (int)vector, 1);      /* a fault inside leaves here, for hook_intr */
    m->delivering = ~0ull;
    m->loop_exit(m->cpu);
}

static int interruptible(const struct microcode *m)
{
    return (*m->eflags & RFLAGS_IF) && !(*m->hflags & HF_INHIBIT_IRQ);
}

/* Posted-interrupt processing (30.6): the requests move from the descriptor to the page. */
static void posted_interrupts(struct microcode *m)
{
    unsigned rvi = *in_vmcb(m, VMCB_RVI);
    m->descriptor[DESCRIPTOR_CONTROL] &= ~(u64)DESCRIPTOR_ON;
    for (unsigned word = 0; word < 8; word++) {
        u32 *requests = (u32 *)m->descriptor + word;
        if (!*requests)
            continue;
        unsigned top = word * 32 + 31 - (unsigned)__builtin_clz(*requests);
        *apic_register(m, APIC_IRR + 16 * word) |= *requests;
        *requests = 0;
        if (top > rvi)
            rvi = top;
    }
    *in_vmcb(m, VMCB_RVI) = (uint8_t)rvi;
    evaluate(m);
}

/* Descriptor.post of posted.py, and if the notification is for the CPU that runs now, its arrival. 1: it must be sent. */
int post_interrupt(struct microcode *m, u32 *descriptor, u32 vector, u32 urgent)
{
    u32 control = descriptor[8];
    descriptor[vector / 32] |= 1u << vector % 32;
    if (control & DESCRIPTOR_ON || (control & DESCRIPTOR_SN && !urgent))
        return 0;
    descriptor[8] = control | DESCRIPTOR_ON;
    if (running != m || (u64 *)descriptor != m->descriptor || (descriptor[9] >> 8 & 0xff) != m->index
        || (control >> 16 & 0xff) != *in_vmcb(m, VMCB_NOTIFICATION))
        return 1;
    m->notified = 1;
    m->stop = m->retired;
    return 0;
}

/* An access that is not virtualized: the instruction has done nothing, and the hypervisor does it (30.4.2). */
static void refuse_access(struct microcode *m, u64 info)
{
    m->trap = 0;
    m->raise_vmexit(m->env, EXIT_APIC_ACCESS, info, 0);
}

/* The APIC-access page, as uc_mmio_map calls it (30.4). */
u64 apic_read(void *uc, u64 offset, u32 size, struct microcode *m)
{
    if (!(APIC_READS >> (offset >> 4 & 63) & 1) || offset >= 0x400 || (offset & 15) + size > 4)
        refuse_access(m, offset);
    charge(m, EV_APIC_ACCESS);
    return *apic_register(m, (unsigned)offset) >> 8 * (offset & 3);
}

void apic_write(void *uc, u64 offset, u32 size, u64 value, struct microcode *m)
{
    uint8_t *bytes = (uint8_t *)m->virtual_apic + offset;
    if (!(APIC_WRITES >> (offset >> 4 & 63) & 1) || offset >= 0x400 || (offset & 15) + size > 4)
        refuse_access(m, offset | ACCESS_WRITE);
    charge(m, EV_APIC_ACCESS);
    for (u32 i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
    offset &= ~3ull;
    if (offset == APIC_TPR) {           /* TPR virtualization (30.1.2) */
        *apic_register(m, APIC_TPR) &= 0xff;
        *m->v_tpr = (uint8_t)(*apic_register(m, APIC_TPR) >> 4);
        evaluate(m);
    } else if (offset == APIC_EOI) {
        end_of_interrupt(m);
    } else if (offset == APIC_ICR_HIGH) {
        *apic_register(m, APIC_ICR_HIGH) &= 0xff000000;
    } else {
        m->apic_written((u32)offset);   /* VirtualApic.written: rare, and the same on both paths */
    }
}
