"""What the commands do, one file each: settings, the job, what is said in the end."""
