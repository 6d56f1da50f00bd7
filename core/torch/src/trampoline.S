/* A function of torch-sys as the program sees it: a jump to where its slot points. At first that is the code which loads
   libtorch and puts the function's real address there. */

.macro trampoline name index
    .text
    .globl \name
    .hidden \name
    .type \name, @function
\name:
    jmp *yolo_torch_slots + 8 * \index(%rip)
.Lfirst\index:
    pushq $\index
    jmp yolo_torch_first_call
    .size \name, . - \name
    .section .data.rel.local, "aw", @progbits
    .quad .Lfirst\index
.endm

    .section .data.rel.local, "aw", @progbits
    .balign 8
    .globl yolo_torch_slots
    .hidden yolo_torch_slots
yolo_torch_slots:

#include "functions.S"

/* All registers that carry arguments live through the call of yolo_torch_bind, which gets the index and returns the address.
   Six for integers, rax (the number of vector registers of a variadic call), eight vectors: 56 + 128 bytes, and 8 that align
   the stack to 16. */
    .text
    .hidden yolo_torch_bind
    .type yolo_torch_first_call, @function
yolo_torch_first_call:
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %r8
    pushq %r9
    pushq %rax
    subq $136, %rsp
    movups %xmm0, 0(%rsp)
    movups %xmm1, 16(%rsp)
    movups %xmm2, 32(%rsp)
    movups %xmm3, 48(%rsp)
    movups %xmm4, 64(%rsp)
    movups %xmm5, 80(%rsp)
    movups %xmm6, 96(%rsp)
    movups %xmm7, 112(%rsp)
    movq 192(%rsp), %rdi
    call yolo_torch_bind
    movq %rax, %r11
    movups 0(%rsp), %xmm0
    movups 16(%rsp), %xmm1
    movups 32(%rsp), %xmm2
    movups 48(%rsp), %xmm3
    movups 64(%rsp), %xmm4
    movups 80(%rsp), %xmm5
    movups 96(%rsp), %xmm6
    movups 112(%rsp), %xmm7
    addq $136, %rsp
    popq %rax
    popq %r9
    popq %r8
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    addq $8, %rsp
    jmp *%r11
    .size yolo_torch_first_call, . - yolo_torch_first_call

    .section .note.GNU-stack, "", @progbits
