/* The microcode: what the silicon does between two instructions, as hooks of Unicorn.
 *
 * Unicorn runs instructions, but it does not count them, does not deliver exceptions through the guest's IDT, does not
 * perform SYSCALL and lets every port access through. These few functions supply that. They run under uc_emu_start, so
 * no Python frame lies between Unicorn and a fault inside them (such a fault leaves by longjmp).
 *
 * No header of Unicorn is used and no offset is copied from it: measure.py finds the addresses when hv starts and fills
 * in `struct microcode`, which microcode.py declares once more for Python, field by field. portable.py does the same
 * work in Python. The two must agree in every count; tests compare them.
 *
 * Simplified: SYSCALL loads flat segments without looking at the limits that a VMCB could hold; a REP instruction that
 * ends by its condition (SCAS, CMPS) counts its iterations, and not one more.
 */
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;

enum event { EV_PORT_IO, EV_CR_ACCESS, EV_CR8_ACCESS, EV_INVLPG, EV_IRET, EV_SYSCALL, EV_EXCEPTION, EV_TLB_FILL,
             EV_APIC_ACCESS, EV_VIRTUAL_INTERRUPT, EV_POSTED_INTERRUPT, EV_PAUSE, N_EVENTS };

struct microcode {
    /* The clock. Time is in millicycles: retired * cpi + extra. */
    u64 retired;            /* instructions completed since reset */
    u64 stop;               /* end the slice before instruction number `stop` */
    u64 extra;              /* time that is not plain instructions */
    u64 deadline;           /* the time that `stop` stands for */
    u64 cpi;                /* time of one plain instruction */
    u64 pc;                 /* address of the last instruction begun; ~0 when that one is over */
    u64 length;             /* its length in bytes */
    u64 mark[2];            /* addresses of the begin and end marks of an operation, 0 when not watched */
    u64 mark_hit;           /* 1 begin, 2 end: the slice ended in front of that mark */
    u64 mark_pass;          /* let the next mark pass, it has been reported */
    u64 count[N_EVENTS];    /* silicon events by kind */
    u64 cost[N_EVENTS];     /* what one of them takes */
    /* The last #VMEXIT. */
    u64 exit_valid;         /* of portable.py: it has not been handled yet */
    u64 exit_code;          /* AMD APM vol. 2, appendix C */
    u64 exit_info1;
    u64 exit_left;          /* the world switch is done already: the CPU is in host mode */
    /* What the hypervisor's VMCB intercepts, without what the microcode adds to be able to time it. */
    u64 want;               /* intercept vector, bit 0 is exit code 0x60 */
    u64 want_cr_read;
    u64 want_cr_write;
    u64 stepping;           /* an observed instruction runs with its intercept off */
    u64 armed, armed_cr_read, armed_cr_write;   /* the intercepts to switch on again */
    u64 watch_tpr;          /* an interrupt waits for a lower task priority: end the slice after a write of CR8 */
    u64 watch_iret;         /* an NMI waits for the end of the one before it: end the slice after IRET */
    u64 injecting;          /* 1: VMRUN delivers an interrupt; 2: and it has, see hook_intr */
    u64 external;           /* an interrupt that the guest gets before its next instruction: EVENTINJ's form; or 0 */
    u64 delivering;         /* the event that is being delivered: vector * 8 + 2, bit 0 unless it is `int n`; or ~0 */
    /* Of the virtual APIC. */
    u64 recognized;         /* a virtual interrupt waits for the guest to take it: look before every instruction */
    u64 notified;           /* the notification of posted interrupts has come, within this slice */
    u64 trap, trap_info;    /* an exit that comes when the instruction is over, or 0 */
    u64 entering;           /* VMRUN: the slice ends in front of the guest's first instruction, whatever waits */
    u64 control[24];        /* the hypervisor's VMCB control area as VMRUN read it */
    /* Unicorn's own state and functions. */
    void *uc, *cpu;
    u64 *regs, *eip, *efer, *star, *lstar, *cstar, *fmask, *next_eip;
    u32 *hflags, *error_code, *is_int, *old_exception, *cc_op;
    u32 *eventinj;          /* of the VMCB that runs: Unicorn notes there what it delivers */
    void *cs, *ss;          /* struct segment */
    u64 *intercept;
    u16 *intercept_cr_read, *intercept_cr_write;
    void (*do_interrupt)(void *cpu);
    void (*do_vmexit)(void *env, u32 code, u64 info1);
    void (*raise_exception)(void *env, int vector);
    void (*check_port[3])(void *env, u32 port);     /* the TSS I/O bitmap; by log2 of the size */
    void (*check_ioio)(void *env, u32 port, u32 param, u32 length);
    void *env;
    int (*emu_start)(void *uc, u64 address, u64 until, u64 timeout, u64 count);
    int (*emu_stop)(void *uc);
    int (*reg_read)(void *uc, int reg, void *value);
    int (*reg_write)(void *uc, int reg, const void *value);
    const u64 *vmcb;        /* that VMCB's control area as it is now */
    /* Address breakpoints, see breakpoints.py: a filter by the low 16 bits, then a hash table of pages. */
    const uint8_t *break_filter, *break_marks;
    const u64 *break_pages;
    void (*raise_vmexit)(void *env, u32 code, u64 info1, u64 host_address);     /* does not return */
    int (*on_exit)(void);   /* sort and handle the exit; 0: end the slice */
    u32 (*port_in)(u32 port, u32 size);
    void (*port_out)(u32 port, u32 size, u32 value);
    /* For the virtual APIC. */
    u64 index;              /* of the CPU */
    u32 *virtual_apic;      /* its page */
    u64 *descriptor;        /* of posted interrupts */
    u64 *eflags;            /* the arithmetic flags are elsewhere; IF is here */
    uint8_t *v_tpr;
    void (*hardware_interrupt)(void *env, int vector, int hardware);
    void (*loop_exit)(void *cpu);   /* leave translated code; does not return */
    void (*apic_written)(u32 offset);
};

struct segment { u32 selector; u64 base; u32 limit; u32 flags; };

enum { RAX = 0, RCX = 1, R11 = 11 };
enum { UC_REG_EFLAGS = 25 };
enum { CC_OP_EFLAGS = 1 };     /* Unicorn's cc_op when the arithmetic flags lie in cc_src as they are */
enum { HF_CPL = 3, HF_CS32 = 1 << 4, HF_SS32 = 1 << 5, HF_ADDSEG = 1 << 6, HF_CS64 = 1 << 15, HF_GUEST = 1 << 21 };
enum { EFER_SCE = 1, RFLAGS_RF = 1 << 16, DE = 0, DB = 1, UD = 6, DF = 8, TS = 10, NP = 11, GP = 13, PF = 14 };
enum { EXIT_CR8_READ = 0x08, EXIT_CR_WRITE = 0x10, EXIT_CR0_WRITE = 0x10, EXIT_CR3_WRITE = 0x13,
       EXIT_CR4_WRITE = 0x14, EXIT_CR8_WRITE = 0x18, EXIT_CR_LAST = 0x1f, EXIT_SINGLE_STEP = 0x41, EXIT_VECTOR = 0x60,
       EXIT_VINTR = 0x64, EXIT_IRET = 0x74, EXIT_INVLPG = 0x79, EXIT_BREAKPOINT = 0x500, EXIT = 0x100 };
enum { LEFT_TO_LOOK = 0x10000 };   /* Unicorn's EXCP_INTERRUPT */
enum { BREAKPOINT_PAGES = 1024 };

u64 microcode_size(void) { return sizeof(struct microcode); }

static void set_stop(struct microcode *m)
{
    /* Time never runs backwards: a deadline in the past stops at once. */
    u64 left = m->deadline > m->extra ? (m->deadline - m->extra + m->cpi - 1) / m->cpi : 0;
    m->stop = left > m->retired && !(m->recognized | m->trap | m->notified | m->external) ? left : m->retired;
}

/* Time passes that the hooks do not see, or a reason to stop has come or gone. */
void pass_time(struct microcode *m, u64 millicycles)
{
    m->extra += millicycles;
    if (m->stepping)
        m->stop = m->retired;
    else
        set_stop(m);
}

static void charge(struct microcode *m, enum event e)
{
    m->count[e]++;
    m->extra += m->cost[e];
    set_stop(m);
}

/* `pc` is a linear address, `eip` an offset in the code segment. They differ in real mode only. */
static u64 code_base(const struct microcode *m) { return ((const struct segment *)m->cs)->base; }

/* An instruction that has begun did not complete: it was not retired.
 *
 * Unicorn 2.1.4 computes the arithmetic flags before it calls hook_code, but at a fault it restores how they were to
 * be computed before that. The instruction has not changed them yet: they are the computed ones.
 */
static void undo_attempt(struct microcode *m)
{
    if (m->pc == *m->eip + code_base(m)) {
        m->retired--;
        m->pc = ~0ull;
        *m->cc_op = CC_OP_EFLAGS;
    }
}

/* End the slice in front of an instruction: the one before it is over. */
static void stop_here(struct microcode *m)
{
    m->pc = ~0ull;
    m->emu_stop(m->uc);
}

static void rearm(struct microcode *m)
{
    *m->intercept = m->armed;
    *m->intercept_cr_read = (u16)m->armed_cr_read;
    *m->intercept_cr_write = (u16)m->armed_cr_write;
    m->stepping = 0;
    set_stop(m);
}

static _Thread_local struct microcode *running;    /* whose guest runs just now */

#include "virtual_apic.h"

/* Is the slice over, or is there only a virtual interrupt to look for? */
static int slice_over(const struct microcode *m)
{
    return m->entering || m->injecting || !m->recognized || m->retired * m->cpi + m->extra >= m->deadline;
}

/* EVENTINJ of an external interrupt (APM vol. 2, 15.20), as VMRUN would do it. Does not return. */
static void deliver_external(struct microcode *m)
{
    unsigned vector = m->external & 0xff;
    *m->eventinj = (u32)m->external;
    m->external = 0;
    m->pc = ~0ull;
    m->delivering = vector * 8 + 3;
    set_stop(m);
    m->hardware_interrupt(m->env, (int)vector, 1);      /* a fault inside leaves here, for hook_intr */
    m->delivering = ~0ull;
    m->loop_exit(m->cpu);
}

/* The rare part of hook_code: 1 means that the instruction must not run now. */
static int pause_here(struct microcode *m, u64 address)
{
    if (m->stepping) {
        if (m->pc == ~0ull) {           /* the observed instruction itself comes now */
            m->stop = m->retired + 1;
            return 0;
        }
        rearm(m);                       /* and now the one after it */
    }
    if (m->retired < m->stop)
        return 0;
    if (m->external)
        deliver_external(m);                                    /* does not return */
    if (m->trap && !m->entering && !m->injecting) {
        u64 code = m->trap;
        m->trap = 0;
        m->pc = ~0ull;
        m->raise_vmexit(m->env, (u32)code, m->trap_info, 0);    /* does not return */
    }
    if (m->notified && !m->entering && !m->injecting) {
        m->notified = 0;
        charge(m, EV_POSTED_INTERRUPT);
        posted_interrupts(m);
        if (m->retired < m->stop)
            return 0;
    }
    if (slice_over(m)) {
        if (m->injecting)
            m->injecting = 2;
        stop_here(m);
        return 1;
    }
    if (interruptible(m))
        deliver_virtual(m);                                     /* does not return */
    m->stop = m->retired + 1;
    return 0;
}

/* The filter says that there may be a breakpoint at this address: is there? */
static int breakpoint_at(struct microcode *m, u64 address)
{
    u64 page = address >> 12, slot = page % BREAKPOINT_PAGES;
    while (m->break_pages[slot] != page) {
        if (m->break_pages[slot] == ~0ull)
            return 0;
        slot = (slot + 1) % BREAKPOINT_PAGES;
    }
    return m->break_marks[slot << 12 | (address & 0xfff)];
}

/* UC_HOOK_CODE: before every instruction. The hot path of the whole program. */
void hook_code(void *uc, u64 address, u32 size, struct microcode *m)
{
    if (__builtin_expect(m->retired >= m->stop, 0) && pause_here(m, address))
        return;
    if (__builtin_expect(address == m->mark[0] || address == m->mark[1], 0) && address) {
        if (!m->mark_pass) {
            m->mark_hit = address == m->mark[0] ? 1 : 2;
            stop_here(m);
            return;
        }
        m->mark_pass = 0;
    }
    if (__builtin_expect(m->break_filter[address & 0xffff], 0) && !m->stepping && breakpoint_at(m, address)) {
        m->pc = ~0ull;
        m->raise_vmexit(m->env, EXIT_BREAKPOINT, 0, 0);
    }
    m->retired++;
    m->pc = address;
    m->length = size;
}

/* uc_emu_start, which cannot tell hook_leave whose microcode it is. */
int run(struct microcode *m, u64 address)
{
    int error;
    running = m;
    error = m->emu_start(m->uc, address, 0, 0, 0);
    running = 0;
    return error;
}

/* Stands in for stop_interrupt of uc_struct, which Unicorn asks whenever it has left translated code in the middle.
 *
 * Without an exception (-1) that is the end of a slice, or an instruction that stores into the block of code that it is
 * in: Unicorn forgets the block, and begins the instruction again before it has stored anything.
 *
 * With LEFT_TO_LOOK it was told to stop (by a hook, for which no instruction is under way), or PAUSE is over.
 */
int hook_leave(void *uc, int number)
{
    struct microcode *m = running;
    if (number < 0 && m->pc == *m->eip) {
        if (m->pc && (m->pc == m->mark[0] || m->pc == m->mark[1]))
            m->mark_pass = 1;           /* it has been reported already */
        undo_attempt(m);
    }
    if (number == LEFT_TO_LOOK && m->pc != ~0ull && m->pc + m->length == *m->eip + code_base(m)) {
        u64 stop = m->stop;
        charge(m, EV_PAUSE);
        if (m->stepping)
            m->stop = stop;
    }
    return number == UD;                /* what Unicorn's own function says: it is one for hook_invalid */
}

/* Which event an intercept is that the microcode added for its own accounting; -1: none, or the hypervisor wants it. */
static int observed(struct microcode *m, u32 code)
{
    if (code < EXIT_CR_WRITE && !(m->want_cr_read >> code & 1))
        return code == EXIT_CR8_READ ? EV_CR8_ACCESS : EV_CR_ACCESS;
    if (code == EXIT_CR0_WRITE || code == EXIT_CR4_WRITE || code == EXIT_CR8_WRITE)
        return -1;                      /* they need checks: Cpu._cr_write */
    if (code >= EXIT_CR_WRITE && code <= EXIT_CR_LAST && !(m->want_cr_write >> (code - EXIT_CR_WRITE) & 1))
        return EV_CR_ACCESS;
    if (code == EXIT_IRET && !(m->want >> (EXIT_IRET - EXIT_VECTOR) & 1))
        return EV_IRET;
    if (code == EXIT_INVLPG && !(m->want >> (EXIT_INVLPG - EXIT_VECTOR) & 1))
        return EV_INVLPG;
    return -1;
}

/* The hypervisor has written commands for the CPU: they take a VMRUN. */
static int control_changed(struct microcode *m)
{
    for (unsigned i = 0; i < sizeof m->control / sizeof *m->control; i++)
        if (m->control[i] != m->vmcb[i])
            return 1;
    return 0;
}

/* After an exit: where the slice ends now. A guest may fault for ever and never begin an instruction, where a slice ends
   otherwise; so it also ends here. */
static int late(struct microcode *m)
{
    if (m->stepping)
        return 0;
    set_stop(m);
    return m->retired * m->cpi + m->extra >= m->deadline;
}

static void vmexit(struct microcode *m, u32 code)
{
    int event = observed(m, code);
    if (*m->is_int) {
        /* An `int n` whose delivery is cut short runs again; Unicorn has moved RIP behind it. */
        *m->eip = m->pc - code_base(m);
        *m->is_int = 0;
    }
    if (code != EXIT_SINGLE_STEP && code != EXIT_VINTR)
        undo_attempt(m);
    m->pc = ~0ull;                      /* those two come when it is over, also when it was a jump to itself */
    if (event >= 0) {
        /* Time it, then let the CPU itself execute it, with the intercepts off for this one instruction. */
        charge(m, (enum event)event);
        if (event == EV_INVLPG || code == EXIT_CR3_WRITE)
            charge(m, EV_TLB_FILL);     /* the one refill that is certain */
        if (event == EV_IRET && m->watch_iret)
            m->deadline = 0;
        m->armed = *m->intercept;
        m->armed_cr_read = *m->intercept_cr_read;
        m->armed_cr_write = *m->intercept_cr_write;
        *m->intercept &= ~(1ull << (EXIT_IRET - EXIT_VECTOR) | 1ull << (EXIT_INVLPG - EXIT_VECTOR));
        *m->intercept_cr_read = (u16)m->want_cr_read;
        *m->intercept_cr_write = (u16)m->want_cr_write;
        m->stepping = 1;
        m->pc = ~0ull;
        m->stop = m->retired;
        return;
    }
    if (m->stepping)
        rearm(m);
    m->injecting = 0;
    m->entering = 0;
    m->delivering = ~0ull;
    m->exit_code = code;
    m->exit_info1 = *m->error_code;
    m->exit_left = 0;
    if (code == EXIT_VINTR) {
        /* The virtual interrupt stays pending in Unicorn until the world switch; do that here, or it would fire again
           before the stop below is seen. */
        m->do_vmexit(m->env, code, 0);
        m->exit_left = 1;
    }
    if (!m->on_exit() || control_changed(m) || late(m))
        m->emu_stop(m->uc);
}

/* Deliver exception or `int n` number *cpu->exception_index* through the guest's own IDT. */
static void deliver(struct microcode *m, u32 vector)
{
    int soft = *m->is_int != 0;

    if (soft) {
        /* Unicorn has moved RIP behind the instruction. If the gate refuses, the fault must show the instruction. */
        if (m->pc != ~0ull)
            *m->eip = m->pc - code_base(m);
    } else {
        /* A gate that refuses: Unicorn 2.1.4 pushes n*16+2; the error code is n*8+2, and bit 0 says that the program
           did not ask for it (APM vol. 2, 8.4.1). */
        if (m->delivering != ~0ull && (vector == GP || vector == NP) && *m->error_code == (m->delivering & ~1ull) * 2 - 2)
            *m->error_code = (u32)m->delivering;
        /* For a second fault while this one is delivered; one that VMRUN injects has not passed Unicorn's own check. */
        if (vector == DE || vector == DF || (vector >= TS && vector <= PF))
            *m->old_exception = vector;
        if (vector == DB)
            m->pc = ~0ull;              /* a trap: the instruction is over, or one more iteration of a REP */
        else
            undo_attempt(m);
    }
    m->delivering = vector * 8 + 2 + !soft;
    *m->eventinj = 0;                   /* an event before this one, if any, has failed for good */
    if (m->stepping)
        rearm(m);
    charge(m, EV_EXCEPTION);
    if (vector == PF && !soft)
        charge(m, EV_TLB_FILL);
    m->do_interrupt(m->cpu);            /* may not return: a fault inside comes back to hook_intr */
    m->delivering = ~0ull;
    *m->is_int = 0;
    m->pc = ~0ull;
}

/* UC_HOOK_INTR: an exception or `int n` (below 0x100), or a #VMEXIT (0x100 + exit code). */
void hook_intr(void *uc, u32 number, struct microcode *m)
{
    if (m->injecting == 2)
        m->injecting = 0;   /* Unicorn shows the injected interrupt here once more, after having delivered it */
    else if (number >= EXIT)
        vmexit(m, number - EXIT);
    else
        deliver(m, number);
}

/* UC_HOOK_INSN_INVALID: #UD takes this way. */
int hook_invalid(void *uc, struct microcode *m)
{
    if (m->injecting == 2)
        m->injecting = 0;
    else
        deliver(m, UD);
    return 1;
}

/* UC_HOOK_INSN SYSCALL (APM vol. 3, SYSCALL). Unicorn adds the length of the instruction to RIP afterwards. */
void hook_syscall(void *uc, struct microcode *m)
{
    u32 rflags;
    u64 target;
    u32 selector = (u32)(*m->star >> 32) & 0xfffc;
    struct segment *cs = m->cs, *ss = m->ss;

    if (!(*m->efer & EFER_SCE)) {
        m->raise_exception(m->env, UD);             /* does not return */
        return;
    }
    charge(m, EV_SYSCALL);
    m->reg_read(m->uc, UC_REG_EFLAGS, &rflags);
    m->regs[RCX] = *m->eip + m->length;
    m->regs[R11] = rflags & ~(u32)RFLAGS_RF;
    target = *m->hflags & HF_CS64 ? *m->lstar : *m->cstar;
    cs->selector = selector;
    cs->base = 0;
    cs->limit = 0xffffffff;
    cs->flags = 0x00a09b00;                         /* 64-bit code, DPL 0 */
    ss->selector = selector + 8;
    ss->base = 0;
    ss->limit = 0xffffffff;
    ss->flags = 0x00c09300;                         /* data, DPL 0 */
    *m->hflags = (*m->hflags & ~(u32)(HF_CPL | HF_ADDSEG)) | HF_CS32 | HF_SS32 | HF_CS64;
    rflags &= ~((u32)*m->fmask | RFLAGS_RF);
    m->reg_write(m->uc, UC_REG_EFLAGS, &rflags);
    *m->eip = target - m->length;
}

/* UC_HOOK_INSN SYSENTER: not there in long mode on AMD (APM vol. 3, SYSENTER). */
void hook_sysenter(void *uc, struct microcode *m)
{
    m->raise_exception(m->env, UD);
}

/* The checks that an IN or OUT passes: the I/O permission bitmap of the TSS, then the one of the VMCB. */
static void check_port(struct microcode *m, u32 port, u32 size, u32 is_in)
{
    u32 rflags;
    m->reg_read(m->uc, UC_REG_EFLAGS, &rflags);
    if ((*m->hflags & HF_CPL) > (rflags >> 12 & 3))
        m->check_port[size >> 1](m->env, port);             /* raises #GP, or returns */
    if (*m->hflags & HF_GUEST)
        m->check_ioio(m->env, port, size << 4 | is_in, (u32)m->length);  /* a #VMEXIT, or returns */
    charge(m, EV_PORT_IO);
}

/* UC_HOOK_INSN IN and OUT (also once per element of INS and OUTS). */
u32 hook_in(void *uc, u32 port, int size, struct microcode *m)
{
    check_port(m, port, (u32)size, 1);
    return m->port_in(port, (u32)size);
}

void hook_out(void *uc, u32 port, int size, u32 value, struct microcode *m)
{
    check_port(m, port, (u32)size, 0);
    m->port_out(port, (u32)size, value);
}
