-- job_submit.lua for clusters on which only some nodes run VMs: sends jobs with --vm-image to nodes
-- with the feature 'spank-vm' and no others. It also keeps RequeueExit to batch jobs: Slurm requeues
-- an srun that ended with such a code too, and then starts a job for which nobody waits any more. (Slurm
-- 22.05 does so whatever this script says; such a job ends by itself after some seconds.)
--
--     JobSubmitPlugins=lua                        (slurm.conf; this file is /etc/slurm/job_submit.lua)
--     NodeName=n[01-40] Features=spank-vm …       (the nodes that have the plugin)
--
-- A job that asks for a VM is refused at submission if no node has the feature. If your site
-- already has a job_submit.lua, copy the two functions and the lines that use them into it.

local FEATURE = "spank-vm"
local OPTION = "_SLURM_SPANK_OPTION_spank_vm_vm_image="

-- The options of plugins travel with a job as "NAME=value".
local function wants_vm(job_desc)
    local env = job_desc.spank_job_env
    for i = 0, (job_desc.spank_job_env_size or 0) - 1 do
        local entry = env[i] or ""
        if entry:sub(1, #OPTION) == OPTION then
            return entry:sub(#OPTION + 1) ~= "none"
        end
    end
    return false
end

-- srun's and salloc's jobs have no script.
local function is_interactive(job_desc)
    return (job_desc.script or "") == ""
end

function slurm_job_submit(job_desc, part_list, submit_uid)
    if wants_vm(job_desc) then
        local asked = job_desc.features
        job_desc.features = (asked and asked ~= "") and ("(" .. asked .. ")&" .. FEATURE) or FEATURE
    end
    if is_interactive(job_desc) then
        job_desc.requeue = 0
    end
    return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    return slurm.SUCCESS
end

return slurm.SUCCESS
