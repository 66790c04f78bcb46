# The workflow is in workflow/; a file that is included cannot set the default target itself.
include: "workflow/Snakefile"


rule default:
    default_target: True
    input:
        rules.all.input,
